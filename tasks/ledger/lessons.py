"""What a skill learnt from people: cases whose answer they told, as examples beside those of its knowledge."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, insert, select, update

from tasks.ledger.tables import cases, lessons
from tasks.records import CaseId

CHUNK = 500


class Lesson(NamedTuple):
    """A case and what it is about, by people's word."""

    case: CaseId
    text: str
    label: str


def as_lessons(c: Connection, agent: str, told: Sequence[tuple[CaseId, str]]) -> list[Lesson]:
    """An agent's cases with their labels, as a skill reads them, in their order; without those that are not its own."""
    found = []
    for start in range(0, len(told), CHUNK):
        labels = dict(told[start : start + CHUNK])
        mine = select(cases.c.id, cases.c.body).where(cases.c.id.in_(labels), cases.c.agent == agent)
        for case, body in c.execute(mine.order_by(cases.c.id)).all():
            arrival = json.loads(body)
            found.append(Lesson(case, f"{arrival['subject']}\n{arrival['text']}", labels[case]))
    return found


def learn(c: Connection, agent: str, skill: str, told: Sequence[tuple[CaseId, str]], proposal: int) -> int:
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
        origin = dict(agent=agent, skill=skill, proposal=proposal, at=time.time())
        rows = [origin | one._asdict() for one in as_lessons(c, agent, list(changed.items()))]
        if rows:
            c.execute(insert(lessons), rows)
        new += len(rows)
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
