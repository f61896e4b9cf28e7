"""What a skill leaves to people, by the answer that it gives: laid down by a proposal, lifted or taken back as one."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from pydantic import Field
from sqlalchemy import Connection, insert, select, update

from tasks.ledger.tables import rules
from tasks.records import Record


class Rule(NamedTuple):
    """Whether cases that a skill reads as this answer are handed over, however sure it is."""

    answer: str
    held: bool
    """False: a rule that said so is lifted."""

    def __str__(self) -> str:
        return f"{'hand over' if self.held else 'no longer hand over'} what it reads as {self.answer}"


class Exam(Record):
    """What people found of drawn cases with an answer that were not shown to whoever proposed a rule on it."""

    held_out: int
    wrong: int
    right: int
    target: float = Field(description="At most this share of what is acted on may be wrong.")
    p: float = Field(description="The chance of so many wrong (lifting: so few) if the share were the target.")
    share: float | None = Field(description="Wrong of all such cases, weighted by the chance of each; None: no case.")
    low: float
    high: float
    moved: float | None = Field(description="Of all the skill's cases: those that the rule hands over, or gives back.")
    moved_low: float
    moved_high: float
    of: int = Field(description="All the skill's cases.")

    def __str__(self) -> str:
        if self.share is None or self.moved is None:
            return "people looked at no held-out case of it yet"
        return (
            f"of {self.held_out} held-out cases that people looked at, {self.wrong} were wrong and {self.right} right: "
            f"{self.share:.1%} of all such ({self.low:.1%} to {self.high:.1%}), p = {self.p:.3f} against the target of "
            f"{self.target:.1%}; {self.moved:.1%} ({self.moved_low:.1%} to {self.moved_high:.1%}) of {self.of} cases "
            "are read so"
        )


def held_answers(c: Connection, agent: str, skill: str, as_of: float = math.inf) -> tuple[str, ...]:
    """The answers whose cases are handed over, in the order of the alphabet: by the newest rule on each that counts."""
    mine = (rules.c.agent == agent, rules.c.skill == skill, rules.c.active, rules.c.at < as_of)
    said = c.execute(select(rules.c.answer, rules.c.held).where(*mine).order_by(rules.c.id)).all()
    newest = {row.answer: row.held for row in said}
    return tuple(sorted(answer for answer, held in newest.items() if held))


def lay_down(c: Connection, agent: str, skill: str, rule: Rule, proposal: int) -> None:
    """Let a rule count for cases that begin from now on."""
    row = dict(agent=agent, skill=skill, answer=rule.answer, held=rule.held, proposal=proposal, at=time.time())
    c.execute(insert(rules).values(row))


def take_newest_back(c: Connection, agent: str, skill: str) -> int | None:
    """Let what was said before the newest rule count again. Its proposal; None: nothing is left to take back."""
    mine = (rules.c.agent == agent, rules.c.skill == skill, rules.c.active)
    last = c.execute(select(rules.c.id, rules.c.proposal).where(*mine).order_by(rules.c.id.desc()).limit(1)).first()
    if last is None:
        return None
    c.execute(update(rules).where(rules.c.id == last.id).values(active=False))
    return int(last.proposal)
