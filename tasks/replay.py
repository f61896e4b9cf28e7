"""The exam of a proposal: labelled cases that it was not made from, read without it and with it."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Collection, Sequence

from scipy.special import betainc, ndtri
from sqlalchemy import Connection

from tasks import offline
from tasks.knowledge import Knowledge
from tasks.ledger import Ledger
from tasks.ledger.lessons import Lesson, as_lessons, lessons_up_to, newest
from tasks.ledger.proposals import Examples, Told
from tasks.lessons import known_with
from tasks.records import CaseId, Replay

EXAM = 500
"""Held-out cases of one exam, the newest: what is read twice for each proposal has to have an end."""
SALT = "held out"
"""With another one cases would change sides, and what taught a skill would examine it."""


def held_out(conversation: str) -> bool:
    """On which side the cases of a conversation are, for good: one half is not shown to whoever proposes."""
    return hashlib.sha256(f"{SALT}/{conversation}".encode()).digest()[0] < 128


def parted(told: Sequence[Told], proposed: Collection[CaseId]) -> tuple[list[Told], list[Told]]:
    """The exam, and what may be proposed, in the order of the cases.

    The exam is the newest EXAM of the held-out ones. Older ones have served: they may be proposed, and what ever was
    proposed is in no exam again. Held out for good, half of what people say would teach nothing; so it is EXAM cases.
    """
    fit = [one for one in told if held_out(one.conversation) and one.case not in proposed]
    exam = fit[-EXAM:]
    sat = {one.case for one in exam}
    return exam, [one for one in told if one.case not in sat]


async def replay(
    ledger: Ledger, agent: str, skill: str, knowledge: Knowledge, examples: Examples, exam: Sequence[Told]
) -> Replay:
    """Read the exam by what the skill knows now, and by that with the examples; the same for the same ledger.

    Nothing can leave: it is the reading alone, and in threads, so that nobody's event loop waits for it.
    """
    if not exam:
        return compared([], [])

    def read(c: Connection) -> tuple[list[Lesson], list[Lesson], list[Lesson]]:
        known = lessons_up_to(c, agent, skill, newest(c, agent, skill))
        given = as_lessons(c, agent, examples)
        more = {one.case for one in given}
        changed = [*(one for one in known if one.case not in more), *given]
        return as_lessons(c, agent, [(one.case, one.label) for one in exam]), known, changed

    asked, *both = await ledger.read("read the exam", read)
    answers = []
    for lessons in both:
        memory = await offline.memory(*known_with(knowledge, lessons))
        answers.append(await asyncio.to_thread(_right, memory, asked))
    return compared(*answers)


def _right(memory: offline.Memory, asked: Sequence[Lesson]) -> list[bool]:
    found = memory.decide_all([one.text for one in asked])
    return [read.intent == one.label for read, one in zip(found, asked, strict=True)]


def compared(before: Sequence[bool], after: Sequence[bool]) -> Replay:
    """Paired answers to the same questions, right or wrong, without and with a change."""
    gained = sum(now and not then for then, now in zip(before, after, strict=True))
    lost = sum(then and not now for then, now in zip(before, after, strict=True))
    n = len(before)
    low, high = difference_of_pairs(gained, lost, n)
    return Replay(
        held_out=n,
        right_before=sum(before),
        right_after=sum(after),
        gained=gained,
        lost=lost,
        p=mcnemar(gained, lost),
        difference=(gained - lost) / n if n else None,
        low=low,
        high=high,
    )


def mcnemar(gained: int, lost: int) -> float:
    """The one-sided exact test of McNemar (1947): so many gained or more, of those that changed, at even chances."""
    return float(betainc(gained, lost + 1, 0.5)) if gained else 1.0


def difference_of_pairs(gained: int, lost: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided interval of a difference of shares of the same n cases; -1 to 1 without any.

    Wald's with one case added to the gained and to the lost (Bonett & Price 2012).
    """
    if n == 0:
        return -1.0, 1.0
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    reach = float(ndtri((1 + confidence) / 2)) * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return max(up - down - reach, -1.0), min(up - down + reach, 1.0)
