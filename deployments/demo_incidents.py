"""The second demonstration: real alerts, the agent killed with SIGKILL in the middle, counted at the pager."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from deployments import doorbell
from deployments.alerting import Alerting
from deployments.episodes import NEVER, Episode, history, rules
from deployments.incident_house import AGENT, began_after, confirmed_silences, go_live, idle, ticks_since
from deployments.incident_kill import Killer
from deployments.incident_tally import Tally, tally
from deployments.invented import invented
from deployments.metrics import Metrics
from deployments.only_one import only_one
from deployments.programs import programs
from deployments.supervisor import Child, House, free_port, stopping
from deployments.unended import runs_left
from tasks.errors import BadInput, HoldfastError, LedgerLost
from tasks.home import PROJECT, home

PATIENCE_SECONDS = 180.0
WATCHED_SECONDS = 12.0  # after the kill: what it could make double comes within
AFTER_SECONDS = 4.0  # that the last episode which ends by itself gets, so that its resolution is seen as well
TARGET_SECONDS = 15.0
out = Console(highlight=False)


class Figures(NamedTuple):
    """What a run was, beside what it counted."""

    killed: str
    runs_left: int
    seed: int
    data: str
    machine: str
    load: float
    """Processes that wanted a processor in the last minute, these and all others."""
    date: str


class Stage(NamedTuple):
    """What stands around the house while it plays."""

    episodes: Sequence[Episode]
    alerting: Alerting
    pager: Path
    """The pager's log."""

    def requests(self) -> list[dict[str, Any]]:
        """All that the pager was asked so far; a line that is being written is left for the next look."""
        text = self.pager.read_text() if self.pager.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def count(self, killer: Killer, back: float | None) -> Tally:
        """The figures as they are now."""
        fired = self.alerting.fired(killer.started)
        known = confirmed_silences()
        return tally(
            self.episodes, fired, self.requests(), self.alerting.silences(), known, killer.kill(back), time.time()
        )


def run(folder: Path | None, seed: int, figures: Path | None, keep: bool, port: int, data: Path | None) -> int:
    """Play it in `folder` (new if None) and print the table. Returns the exit status: 0 if nothing went wrong."""
    found = programs(home() / "programs")  # in the usual house, so that they are fetched once
    if folder is None:
        (PROJECT / ".holdfast").mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="demo-incidents-", dir=PROJECT / ".holdfast"))
    folder = folder.absolute()
    if (folder / "alerting").exists():
        raise BadInput(f"{folder} holds an earlier demonstration. Name a new --home, or remove it.")
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "HOLDFAST_LEDGER"):
        os.environ.pop(name, None)  # a demonstration never touches a server or a ledger of yours
    os.environ["HOLDFAST_HOME"] = str(folder)
    episodes = invented(seed) if data is None else _recorded(data, seed)
    with only_one():
        bell, token = free_port(), secrets.token_hex(24)
        os.environ[doorbell.SETTING] = f"{bell}:{token}"
        asked, house = stopping(), House(port or free_port())
        pager_port, log = free_port(), folder / "pager.jsonl"
        ring = f"http://127.0.0.1:{bell}/ring/{AGENT}"
        alerting = Alerting(folder / "alerting", found, rules(episodes), ring, token)
        pager = Child("pager", [sys.executable, "-S", "-m", "deployments.pager", str(pager_port), str(log)], house.env)
        try:
            out.print(f"Starting Prometheus, Alertmanager and Prefect; all state is in {folder}", soft_wrap=True)
            pager.keep()
            alerting.remember(history(episodes, time.time()))
            alerting.start()
            house.start_server(PATIENCE_SECONDS)
            asyncio.run(go_live(alerting, f"http://127.0.0.1:{pager_port}"))
            house.start_worker()
            out.print(f"Watch it at {house.ui}, and the alerts at {alerting.alertmanager}")
            _warm(house, asked)
            stage, killer = Stage(episodes, alerting, log), Killer(seed, sum(one.actionable for one in episodes))
            _play(stage, house, killer, asked)
            if asked:
                out.print("Ended by hand, so nothing is counted.")
                return 1
            back = asyncio.run(began_after(killer.at)) if killer.at else None
            result, left = stage.count(killer, back), asyncio.run(runs_left())
            if left:
                result.wrong.append(f"{left} run(s) stand as Running, Pending or Cancelling")
            date = f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
            about = Figures(killer.what, left, seed, str(data or ""), _machine(), round(os.getloadavg()[0], 1), date)
            _show(result, about, house.ui)
            if figures is not None:
                figures.write_text(json.dumps(result._asdict() | about._asdict(), indent=2) + "\n")
            while keep and not asked:
                house.look()
                time.sleep(0.5)
        finally:
            house.stop()
            alerting.stop()
            pager.stop()
    return 0 if result.good else 1


def _recorded(data: Path, seed: int) -> list[Episode]:
    from deployments.recorded import recorded

    return recorded(data, seed)


def _warm(house: House, asked: list[int]) -> None:
    """Wait for a tick that finds nothing: what is measured later is an agent at work, not one that starts."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not asked and not _rests(0.0):
        house.look()
        if time.monotonic() > until:
            raise BadInput(f"No tick ended within {PATIENCE_SECONDS:.0f} s; see {home() / 'logs'}.")
        time.sleep(0.3)


def _play(stage: Stage, house: House, killer: Killer, asked: list[int]) -> None:
    """Let the episodes happen, kill, wait until everybody was called, mend everything, and let the agent see that."""
    wanted = {one.name for one in stage.episodes if one.actionable}
    over = max((one.ends for one in stage.episodes if one.ends != NEVER), default=0.0) + AFTER_SECONDS
    until = time.monotonic() + PATIENCE_SECONDS
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Metrics(stage.alerting, stage.episodes) as metrics, Progress(*columns, console=out) as progress:
        bar = progress.add_task("people called", total=len(wanted))
        killer.start()
        looked = 0.0
        while time.monotonic() < until and not asked:
            pages = sum(1 for one in stage.requests() if one["path"] == "/page")
            progress.update(bar, completed=min(pages, len(wanted)))
            if said := killer.look(pages, house, stage.alerting):
                progress.console.print(f"[red]{said}[/red]", soft_wrap=True)
            if time.monotonic() - looked > 0.25:
                looked = time.monotonic()
                for said in house.look():
                    progress.console.print(said, soft_wrap=True)
                seen = killer.at and time.time() - killer.at > WATCHED_SECONDS
                if pages >= len(wanted) and seen and metrics.seconds > over and _settled(stage, killer):
                    break
            time.sleep(0.01)
        metrics.mend()
        quiet, until = 0.0, time.monotonic() + PATIENCE_SECONDS / 2
        while not asked and time.monotonic() < until:
            house.look()
            quiet = quiet or (0.0 if stage.alerting.firing() else time.time())
            if quiet and _rests(quiet):
                return
            time.sleep(0.3)


def _rests(since: float) -> bool:
    """Whether a tick that began after that has ended, and none is on its way."""
    try:
        return bool(asyncio.run(ticks_since(since))) and asyncio.run(idle())
    except httpx.HTTPError:
        return False  # Prefect's server is started again, as it is in some of the kills


def _settled(stage: Stage, killer: Killer) -> bool:
    """Whether a person was called for every episode that needs one, or the agent has held that none is needed."""
    try:
        now = stage.count(killer, killer.at)
    except httpx.HTTPError:
        return False  # one of them was started again, and is not there yet
    return now.missed == now.missed_by_judgment


def _machine() -> str:
    return f"{platform.machine()} with {os.cpu_count()} processors, Python {platform.python_version()}"


def _show(result: Tally, about: Figures, ui: str) -> None:
    title = f"{result.episodes} episodes of alerts, killed in the middle: {about.killed}"
    table = Table(title=title, title_justify="left", show_header=False)

    def seconds(value: float | None) -> str:
        return "none" if value is None else f"{value:.1f} s"

    worst = result.warm_page_seconds_worst
    rows: list[tuple[str, Any, bool]] = [
        ("episodes", result.episodes, True),
        ("  of them needed a person", result.actionable, True),
        ("a person was called for", result.paged, True),
        ("  called twice", result.paged_twice, result.paged_twice == 0),
        ("  called for what came again", result.paged_again, True),
        ("  missed", result.missed, result.missed == 0),
        ("    of them held to need nobody", result.missed_by_judgment, result.missed_by_judgment == 0),
        ("  called although nobody was needed", result.needless_pages, True),
        ("requests that repeated a key, and called nobody", result.requests_repeated, True),
        ("silenced", result.silenced, True),
        ("  silenced twice", result.silences_doubled, result.silences_doubled == 0),
        ("  silences left behind", result.silences_left_behind, result.silences_left_behind == 0),
        ("noted", result.notes, True),
        ("from firing to the pager, median", seconds(result.page_seconds_median), True),
        ("  worst", seconds(result.page_seconds_worst), True),
        ("without those that the kill hit, median", seconds(result.warm_page_seconds_median), True),
        ("  worst", seconds(worst), worst is not None and worst <= TARGET_SECONDS),
        ("from the kill to the next tick", seconds(result.back_seconds), result.back_seconds is not None),
        ("runs left as Running", about.runs_left, about.runs_left == 0),
    ]
    for name, value, good in rows:
        table.add_row(name, f"[{'green' if good else 'red'}]{value}[/]")
    table.add_row("on", f"{about.machine}, load {about.load}")
    table.add_row("UI", ui)
    out.print(table)
    for line in result.wrong:
        out.print(line, style="red", soft_wrap=True, markup=False)


def main(
    home_: Annotated[Path | None, typer.Option("--home", help="A folder for all its state.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses what happens and when, what is killed, and when.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
    keep: Annotated[bool, typer.Option(help="Leave all of it up at the end, until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(help="Where the UI listens; 0 takes a free port.")] = 0,
    data: Annotated[Path | None, typer.Option(help="Play real series of this copy of NAB.")] = None,
) -> None:
    """Alerts of a real Prometheus, killed with SIGKILL in the middle; counted from the pager's log and the silences."""
    try:
        raise typer.Exit(run(home_, seed, json, keep, port, data))
    except (HoldfastError, LedgerLost, httpx.HTTPError) as why:
        out.print(str(why), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    typer.run(main)
