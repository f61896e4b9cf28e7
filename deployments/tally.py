"""Counts what happened from the mail folders and from Prefect's task runs, never from the ledger."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from email.message import Message
from email.parser import BytesParser
from email.utils import parseaddr
from pathlib import Path
from typing import Any, NamedTuple

from deployments.unended import runs_left

SENT, HANDED = "sent", "handover"
HANDED_FROM = re.compile(r"^Case \d+ from (\S+), arrived")


class Tally(NamedTuple):
    """The figures of a demonstration; `wrong` holds one sentence for each thing that should not be."""

    tickets: int
    answered: int
    handed_over: int
    answered_twice: int
    lost: int
    steps_run_again: int
    steps_replayed: int
    recovery_seconds: float | None
    runs_left: int
    wrong: list[str]

    @property
    def good(self) -> bool:
        return not self.wrong


def _mails(folder: Path) -> list[Path]:
    return sorted(path for part in ("new", "cur") if (folder / part).is_dir() for path in (folder / part).iterdir())


def outgoing(home: Path) -> int:
    """How many mails went out so far, to customers and to people who take over."""
    return len(_mails(home / SENT)) + len(_mails(home / HANDED))


def _read(path: Path) -> Message:
    return BytesParser().parsebytes(path.read_bytes())


def _ticket(path: Path) -> str:
    """How a mail that goes out for this ticket names it: by Message-ID, or by its sender if it has none."""
    mail = _read(path)
    return str(mail.get("Message-ID") or parseaddr(str(mail.get("From")))[1]).strip()


def _answers(path: Path) -> str:
    mail = _read(path)
    if named := str(mail.get("In-Reply-To") or "").strip():
        return named
    body = mail.get_payload(decode=True)
    handed = HANDED_FROM.search(body.decode(errors="replace") if isinstance(body, bytes) else "")
    return handed.group(1) if handed else parseaddr(str(mail.get("To")))[1]


async def tally(home: Path, killed: bool, recovery: float | None) -> Tally:
    """Count, and say what is wrong."""
    inbox = [_ticket(path) for path in _mails(home / "inbox")]
    answered = Counter(_answers(path) for path in _mails(home / SENT))
    handed = Counter(_answers(path) for path in _mails(home / HANDED))
    both = answered + handed
    left = await runs_left()
    again, replayed = await _from_prefect()
    wrong = [f"{ticket}: {count} mails went out for it" for ticket, count in both.items() if count > 1]
    wrong += [f"{ticket}: no answer and no hand-over" for ticket in inbox if not both[ticket]]
    wrong += [f"{mail or 'a mail'}: answers no ticket" for mail in both if mail not in inbox]
    wrong += [f"{name}: finished {count} times" for name, count in again.items()]
    if not killed or recovery is None:
        wrong.append("the process was not killed, or nothing followed after the kill")
    if left:
        wrong.append(f"{left} run(s) stand as Running, Pending or Cancelling")
    return Tally(
        tickets=len(inbox),
        answered=sum(answered.values()),
        handed_over=sum(handed.values()),
        answered_twice=sum(count - 1 for count in both.values()),
        lost=sum(1 for ticket in inbox if not both[ticket]),
        steps_run_again=sum(count - 1 for count in again.values()),
        steps_replayed=replayed,
        recovery_seconds=recovery,
        runs_left=left,
        wrong=wrong,
    )


async def _from_prefect() -> tuple[dict[str, int], int]:
    """Steps that finished more than once, and how many were served from the ledger."""
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        before: list[Any] = []
        while True:  # task runs reach the server as events, a little later than the mails reach the folder
            runs: list[Any] = []
            while page := await client.read_task_runs(limit=200, offset=len(runs)):
                runs += page
            if len(runs) == len(before) and runs:
                break
            before = runs
            await asyncio.sleep(2.5)
    finished = Counter(run.name for run in runs if run.state_name == "Completed")
    replayed = sum(1 for run in runs if run.state_name == "Cached")
    return {name: count for name, count in finished.items() if count > 1}, replayed
