"""Which skill works a case: chosen once, and chosen anew when a skill sends it on."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select, update

from tasks.ledger.cases import Work, end_attempt, guard, load
from tasks.ledger.tables import cases, unsettled
from tasks.records import Case, CaseId, Routed


def undecided(c: Connection, agent: str, limit: int) -> list[Case]:
    """Cases nobody has chosen a skill for yet, oldest first."""
    found = select(cases).where(unsettled(), cases.c.agent == agent, cases.c.state == "open", cases.c.skill == "")
    return [load(row) for row in c.execute(found.order_by(cases.c.id).limit(limit))]


def decide(c: Connection, ids: Sequence[CaseId], skill: str) -> None:
    """Choose the skill for cases that have none."""
    c.execute(update(cases).where(cases.c.id.in_(ids), cases.c.skill == "").values(skill=skill))


def send_on(c: Connection, work: Work, to: Routed, replayed: int = 0) -> None:
    """End an attempt by giving the case to another skill, which works it under thresholds and versions of its own."""
    case = work.case.id
    guard(c, case, work.fence, f"send it on to {to.skill}")
    values = dict(state="open", holder=None, skill=to.skill, policy="", reason="", errors=0, deaths=0, suspect=False)
    c.execute(update(cases).where(cases.c.id == case).values(values))
    end_attempt(c, case, work.fence, "sent on", f"to {to.skill}: {to.why}"[:500], replayed)
