"""`make chaos`: plays numbered kill scenarios, and says with which seed each failure comes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from tests.chaos.inbox import OWN
from tests.chaos.oracle import Verdict
from tests.chaos.plan import plan
from tests.chaos.report import Progress, figures, show
from tests.servers import INITDB

out = Console(highlight=False, soft_wrap=True)
Play = Callable[[int], Verdict]


def main(
    n: Annotated[int, typer.Option("--n", help="How many scenarios, each with at least one kill.")] = 100,
    seed: Annotated[int, typer.Option(help="Decides everything but the machine's own timing.")] = 1,
    db: Annotated[str, typer.Option(help="sqlite or postgres; a server of its own is started.")] = "sqlite",
    json_: Annotated[Path | None, typer.Option("--json", help="Write totals here, progress beside it.")] = None,
    skill: Annotated[str, typer.Option(help="module:flow of a skill with ONCE_PER_CASE steps.")] = OWN,
    inbox: Annotated[Path | None, typer.Option(help="A Maildir whose mails the skill works.")] = None,
    only: Annotated[int | None, typer.Option(help="Play this scenario alone and keep nothing.")] = None,
    level: Annotated[str, typer.Option(help="each (forked), stack (whole house), or both.")] = "both",
    shard: Annotated[str, typer.Option(help="K/M: of M machines this is the K-th, counted from 1.")] = "1/1",
    part: Annotated[bool, typer.Option(hidden=True, help="Leave the sums to whoever started this.")] = False,
    jobs: Annotated[int, typer.Option(help="Processes that play the forked level side by side.")] = 1,
) -> None:
    """Kill the agent in N ways and count, from outside, what that repeated or lost."""
    if db not in ("sqlite", "postgres") or (db == "postgres" and INITDB is None):
        raise typer.BadParameter("DB is sqlite or postgres, and the latter needs Debian's package postgresql")
    setting = f"seed {seed}, {db}, {skill}"
    mine, of = (int(one) for one in shard.split("/"))
    path = json_.with_name(json_.name + ".progress.jsonl") if json_ and only is None else None
    progress = Progress(path or Path(tempfile.mkdtemp()) / "progress.jsonl", setting)
    numbers = [only] if only is not None else [one for one in range(1, n + 1) if (one + one // 10) % of == mine % of]
    wanted = {name: [one for one in numbers if plan(seed, one).level == name] for name in ("each", "stack")}
    played = progress.played()
    todo = {name: [one for one in those if one not in played] for name, those in wanted.items()}
    if played:
        out.print(f"{len(played)} scenarios were played before; going on.")
    stack = None
    if todo["stack"] and level != "each":
        if level == "stack" or only is not None:
            from tests.chaos.stack import houses

            _play(todo["stack"], seed, progress, houses(seed, db, skill, inbox))
        else:
            again = [*sys.argv[1:], "--level", "stack", "--part"]
            if json_ is None:
                again += ["--json", str(progress.path).removesuffix(".progress.jsonl")]
            stack = subprocess.Popen([sys.executable, "-m", "tests.chaos", *again])
    if todo["each"] and level != "stack":
        _fork_shards(todo["each"], jobs, seed, db, skill, inbox, progress)
    if stack is not None:
        stack.wait()
    if part:
        return
    verdicts = [one for number, one in progress.played().items() if number in numbers]
    found = figures(verdicts)
    show(out, found, f"{len(verdicts)} scenarios, {setting}")
    for one in verdicts:
        if one.wrong:
            given = (f" --skill {skill}" if skill != OWN else "") + (f" --inbox {inbox}" if inbox else "")
            again = f"python -m tests.chaos --seed {seed} --db {db}{given} --only {one.number}"
            out.print(f"[red]{one.number} ({one.plan}): {escape('; '.join(one.wrong))}[/red]\n  again: {again}")
    due = numbers if level == "both" else wanted[level]
    missing = len(set(due) - {one.number for one in verdicts})
    if missing:
        out.print(f"[red]{missing} scenario(s) were not played.[/red]")
    if json_ is not None and only is None:
        json_.write_text(json.dumps(found, indent=2) + "\n")
    raise typer.Exit(1 if found["failed_scenarios"] or missing else 0)


def _play(numbers: list[int], seed: int, progress: Progress, ground: Iterator[Play]) -> None:
    play = next(ground)
    try:
        for number in numbers:
            verdict = play(number)
            progress.add(verdict)
            said = f"[red]{escape('; '.join(verdict.wrong))}[/red]" if verdict.wrong else "good"
            out.print(f"{number:5} {verdict.seconds:6.2f} s  {plan(seed, number)}: {said}")
    finally:
        next(ground, None)


def _fork_shards(
    numbers: list[int], jobs: int, seed: int, db: str, skill: str, inbox: Path | None, progress: Progress
) -> None:
    from tests.chaos.bare import preload
    from tests.chaos.grounds import grounds
    from tests.servers import Postgres

    preload()
    postgres = Postgres(durable=False) if db == "postgres" else None
    try:
        pids = []
        for job in range(jobs):
            if pid := os.fork():
                pids.append(pid)
                continue
            status = 1
            try:
                _play(numbers[job::jobs], seed, progress, grounds(seed, postgres, skill, inbox))
                status = 0
            except BaseException:
                out.print_exception()
            finally:
                sys.stdout.flush()
                os._exit(status)
        if any([os.waitpid(pid, 0)[1] for pid in pids]):
            out.print("[red]A process of the suite itself failed; what it did not play is not in the figures.[/red]")
    finally:
        if postgres:
            postgres.stop()


if __name__ == "__main__":
    typer.run(main)
