"""Finished steps: written once, under the fence, before anybody hears that they are finished."""

from __future__ import annotations

import time

from sqlalchemy import Connection, select

from tasks.ledger.cases import Work, guard, insert_or_nothing
from tasks.ledger.tables import steps


def store_step(c: Connection, work: Work, key: str, step: str, value: bytes, seconds: float) -> bytes:
    """Insert or nothing; returns what is stored, which is the first result if two came."""
    guard(c, work.case.id, work.fence, f"store step {step}")
    row = dict(case=work.case.id, key=key, step=step, value=value, fence=work.fence, seconds=seconds, at=time.time())
    if c.execute(insert_or_nothing(c, steps), row).rowcount == 1:
        return value
    kept = select(steps.c.value).where(steps.c.case == work.case.id, steps.c.key == key)
    return bytes(c.execute(kept).scalar_one())
