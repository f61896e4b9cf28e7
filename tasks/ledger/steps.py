"""Finished steps: written once, under the fence, before anybody hears that they are finished."""

from __future__ import annotations

import time

from sqlalchemy import Connection, bindparam, select, update

from tasks.errors import FenceLost
from tasks.ledger.cases import Work
from tasks.ledger.inserts import insert_or_nothing
from tasks.ledger.tables import cases, steps

# The hot path: guard and counter in one statement, built once. The row stays locked until the end of the transaction.
_COUNTED = (
    update(cases)
    .where(cases.c.id == bindparam("held"), cases.c.fence == bindparam("mine"), cases.c.state == "working")
    .values(stored=cases.c.stored + bindparam("more"))
)


def store_step(c: Connection, work: Work, key: str, step: str, value: bytes, seconds: float) -> bytes:
    """Insert or nothing, and count it; returns what is stored, which is the first result if two came."""
    case, fence = work.case.id, work.fence
    if c.execute(_COUNTED, {"held": case, "mine": fence, "more": 1}).rowcount != 1:
        raise FenceLost(case, fence, f"store step {step}")
    row = dict(case=case, key=key, step=step, value=value, fence=fence, seconds=seconds, at=time.time())
    if c.execute(insert_or_nothing(c, steps), row).rowcount == 1:
        return value
    c.execute(_COUNTED, {"held": case, "mine": fence, "more": -1})
    kept = select(steps.c.value).where(steps.c.case == case, steps.c.key == key)
    return bytes(c.execute(kept).scalar_one())
