"""What people and the recovery did, in their words."""

from __future__ import annotations

import time

from sqlalchemy import Connection, insert

from tasks.ledger.tables import journal


def note(c: Connection, who: str, what: str, agent: str = "", case: int | None = None) -> None:
    """Enter in the journal what a person or the recovery did."""
    c.execute(insert(journal).values(at=time.time(), who=who, what=what, agent=agent, case=case))
