"""What a skill learnt from people: cases whose answer they told, as examples beside those of its knowledge."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, func, select, update

from tasks.ledger.inserts import insert_or_nothing
from tasks.ledger.journal import note
from tasks.ledger.tables import cases, lessons
from tasks.records import CaseId

CHUNK = 500


class Lesson(NamedTuple):
    """A case and what it is about, by people's word."""

    case: CaseId
    text: str
    label: str


def learn(c: Connection, agent: str, skill: str, told: Sequence[tuple[CaseId, str]], review: int) -> int:
    """Add verified cases to a skill's memory; what it knows already stays as it is. Returns how many are new.

    Where people say something else of a case than before, what they said before counts no more.
    """
    new = 0
    for start in range(0, len(told), CHUNK):
        labels = dict(told[start : start + CHUNK])
        mine = (lessons.c.agent == agent, lessons.c.skill == skill, lessons.c.active, lessons.c.case.in_(labels))
        known = {row.case: row.label for row in c.execute(select(lessons.c.case, lessons.c.label).where(*mine))}
        changed = {case: label for case, label in labels.items() if known.get(case) != label}
        c.execute(update(lessons).where(*mine, lessons.c.case.in_(changed)).values(active=False))
        found = select(cases.c.id, cases.c.body).where(cases.c.id.in_(changed), cases.c.agent == agent)
        for case, body in c.execute(found.order_by(cases.c.id)).all():
            arrival = json.loads(body)
            row = dict(agent=agent, skill=skill, case=case, label=changed[case], review=review, at=time.time())
            text = f"{arrival['subject']}\n{arrival['text']}"
            new += c.execute(insert_or_nothing(c, lessons).values(text=text, **row)).rowcount
    return new


def newest(c: Connection, agent: str, skill: str) -> int:
    """The number of the last lesson; cases that are begun now work with all up to it. 0 if there is none."""
    mine = (lessons.c.agent == agent, lessons.c.skill == skill, lessons.c.active)
    return int(c.execute(select(lessons.c.id).where(*mine).order_by(lessons.c.id.desc()).limit(1)).scalar() or 0)


def lessons_up_to(c: Connection, agent: str, skill: str, last: int) -> list[Lesson]:
    """What counts of the lessons up to this one, oldest first."""
    mine = (lessons.c.agent == agent, lessons.c.skill == skill, lessons.c.id <= last, lessons.c.active)
    found = select(lessons.c.case, lessons.c.text, lessons.c.label).where(*mine).order_by(lessons.c.id)
    return [Lesson(*row) for row in c.execute(found).all()]


def forget(c: Connection, agent: str, skill: str, who: str) -> int:
    """Take back what the newest review taught a skill. Returns how many lessons that were."""
    mine = (lessons.c.agent == agent, lessons.c.skill == skill, lessons.c.active)
    last = c.execute(select(func.max(lessons.c.review)).where(*mine)).scalar()
    count = (
        c.execute(update(lessons).where(*mine, lessons.c.review == last).values(active=False)).rowcount if last else 0
    )
    if count:
        note(c, who, f"took {count} lesson(s) of {skill} back, of review {last}", agent=agent)
    return count
