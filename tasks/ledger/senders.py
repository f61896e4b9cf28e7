"""What one sender wrote before, and what came of it."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from tasks.ledger.cases import load
from tasks.ledger.tables import cases, outcomes
from tasks.records import Case


def earlier_of_sender(c: Connection, case: Case, limit: int) -> list[tuple[Case, str]]:
    """Cases of the same source and sender that came before this one, newest first, each with its conclusion."""
    mine = (cases.c.source == case.source, cases.c.sender == case.sender, cases.c.id < case.id)
    rows = c.execute(select(cases).where(*mine).order_by(cases.c.id.desc()).limit(limit)).all()
    last = (
        select(func.max(outcomes.c.id)).where(outcomes.c.case.in_([row.id for row in rows])).group_by(outcomes.c.case)
    )
    ended = c.execute(select(outcomes.c.case, outcomes.c.kind, outcomes.c.answer).where(outcomes.c.id.in_(last))).all()
    became = {one.case: f"{one.kind.replace('_', ' ')}: {one.answer}" for one in ended}
    return [(load(row), became.get(row.id, str(row.state))) for row in rows]
