"""The judge of a scenario: mails and the witness's log say what happened, the ledger only what it believes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.witness import Line


class Mail(NamedTuple):
    """What a mail is about. Its Message-ID is left out: a repeat may have another."""

    answers: str
    to: str
    subject: str


def mails_in(folders: Iterable[Path], own: str = "") -> Counter[Mail]:
    """All mails under some Maildirs; the agent's own address, which differs between scenarios, reads `desk`."""
    found: Counter[Mail] = Counter()
    for folder in folders:
        for path in [path for part in ("new", "cur") for path in (folder / part).glob("*")]:
            try:
                with path.open("rb") as handle:
                    head = BytesHeaderParser().parse(handle)
            except FileNotFoundError:
                continue  # moved by a mail program just now
            to = str(head["To"]).strip()
            found[Mail(str(head["In-Reply-To"] or ""), "desk" if to == own else to, str(head["Subject"]))] += 1
    return found


@dataclass
class Verdict:
    """What one scenario came to; `wrong` holds one sentence for each thing that should not be."""

    number: int
    level: str = "each"
    plan: str = ""
    kills: int = 0
    cases: int = 0
    duplicates: int = 0
    lost: int = 0
    unknown: int = 0
    steps_run_again: int = 0
    calls_paid_twice: int = 0
    calls_cut_short: int = 0
    quarantined: int = 0
    recovery: list[float] = field(default_factory=list)
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def judge_mails(self, expected: Counter[Mail], found: Counter[Mail]) -> None:
        """Every mail that an undisturbed run sends, exactly once, and no other."""
        self.duplicates += sum((found - expected).values())
        self.lost += sum((expected - found).values())
        self.wrong += [f"{count} too many of {mail}" for mail, count in (found - expected).items()]
        self.wrong += [f"{count} missing of {mail}" for mail, count in (expected - found).items()]

    def judge_steps(self, log: list[Line], disturbed: set[int]) -> None:
        """No step runs after its result was promised as safe; none is paid twice unless its process was cut down.

        `disturbed` are the processes that were killed, frozen or cut off from the database. A call that they had in
        hand may have returned and been lost, or returns late, when it was made again: nobody can prevent that.
        """
        kept: set[str] = set()
        paid: dict[str, int] = {}
        late: set[tuple[int, str]] = set()
        for line in log:
            key = line.rest.partition(" ")[2]
            if line.word == "kept":
                kept.add(key)
            elif line.word == "run" and key in kept:
                late.add((line.pid, key))
                self.steps_run_again += 1
                self.wrong.append(f"a finished step ran again: {key}")
            elif line.word == "done":
                if key in paid and ((line.pid, key) in late or not {paid[key], line.pid} & disturbed):
                    self.calls_paid_twice += 1
                    self.wrong.append(f"a call was paid twice with nobody disturbed in it: {key}")
                elif key in paid:
                    self.calls_cut_short += 1
                paid[key] = line.pid

    def judge_ledger(self, log: list[Line], stored: dict[str, int], states: Counter[str], held: int) -> None:
        """What was committed counts as finished even if its process died before anybody heard of it."""
        for line in log:
            fence, _, key = line.rest.partition(" ")
            if line.word == "run" and key in stored and int(fence) > stored[key]:
                self.steps_run_again += 1
                self.wrong.append(f"a stored step ran again: {key}")
        if stuck := {state: count for state, count in states.items() if state != "settled"}:
            self.wrong.append(f"cases not settled in the end: {stuck}")
        if held:
            self.wrong.append(f"{held} lease(s) of dead processes stand in the ledger")

    def judge_recovery(self, cuts: list[float], log: list[Line], mailed: list[float]) -> None:
        """Seconds from each kill to the next finished step or outgoing mail."""
        signs = sorted([line.at for line in log if line.word == "done"] + mailed)
        for cut in cuts:
            if (back := next((at for at in signs if at > cut), None)) is not None:
                self.recovery.append(round(back - cut, 3))
