"""Kills inside conversations with tools: the chaos suite on a skill whose model is the fake in a process of its own.

    python -m tests.chaos.talk --n 300 --db sqlite --json out.json

Turns and tool calls are steps, so the suite's witness judges them as it judges any step.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from email.message import EmailMessage
from mailbox import Maildir
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tests.claude.running import claude_server_in

WORDS = ("1", "2", "3", "note", "nonsense", "nobody", "13", "words")
MAILS = 24
out = Console(highlight=False, soft_wrap=True)


def main(
    n: Annotated[int, typer.Option("--n", help="Kills, at least.")] = 300,
    seed: Annotated[int, typer.Option()] = 1,
    db: Annotated[str, typer.Option()] = "sqlite",
    jobs: Annotated[int, typer.Option()] = 2,
    json_: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Kill conversations of four to ten turns in N ways, and count what was asked or done again."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-talk-"))
    deliver(folder / "inbox", random.Random(seed))
    with claude_server_in(folder, brain="tests.talking:brain") as server:
        env = os.environ | {"ANTHROPIC_API_KEY": "sk-test-1234", "ANTHROPIC_BASE_URL": server.url}
        env["PRACTICE_LOG"] = str(folder / "tools")
        figures = folder / "figures.json"
        # One scenario in ten is a whole house and is left out here; each of the others kills at least once.
        command = [sys.executable, "-m", "tests.chaos", "--n", str(n * 10 // 9 + 1), "--level", "each", "--db", db]
        command += ["--seed", str(seed), "--jobs", str(jobs), "--json", str(figures)]
        command += ["--skill", "tests.talking:talking", "--inbox", str(folder / "inbox")]
        failed = subprocess.run(command, env=env).returncode
        found = json.loads(figures.read_text())
        entries = server.entries("message")
    found["model_calls"] = len(entries)
    out.print(
        f"{found['kills']} kills inside conversations, {found['model_calls']} model calls: "
        f"{found['steps_run_again']} finished turns or tool calls ran again, {found['calls_paid_twice']} paid twice, "
        f"{found['calls_cut_short']} answers were lost with the process that had just received them."
    )
    if json_ is not None:
        json_.write_text(json.dumps(found, indent=2) + "\n")
    raise typer.Exit(1 if failed or found["kills"] < n else 0)


def deliver(inbox: Path, dice: random.Random) -> None:
    """Mails whose text is a plan: a word for each turn."""
    box = Maildir(inbox)
    for number in range(1, MAILS + 1):
        mail = EmailMessage()
        mail["Message-ID"], mail["From"] = f"<{number}@talk.example>", f"c{number}@talk.example"
        mail["Subject"] = f"turns {dice.randint(8, 14)}"
        mail.set_content(" ".join(dice.choice(WORDS) for _ in range(dice.randint(4, 10))) + f" end {number}")
        box.add(mail)


if __name__ == "__main__":
    typer.run(main)
