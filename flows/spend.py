"""Shows what models cost: spent, saved by replays and by caching, wasted, by agent, skill, version, step and day."""

from __future__ import annotations

import time
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from tasks.ledger import the_ledger
from tasks.ledger.spent import spent_between
from tasks.prices import NANO
from tasks.report import show_spending


@flow(name="spend", version="1", flow_run_name="spending of {days} day(s)")
async def spend(days: int = Field(default=30, ge=1, le=3660, description="How far back.")) -> State[Any]:
    """Leave a table and a summary under Artifacts.

    Ends as Completed, or as Idle if no model was asked. Replays and caches are counted at what they saved in fact:
    a replay at the price its answer had, a cache against the same tokens without one.
    """
    now = time.time()
    rows = await the_ledger().read("add up what models cost", lambda c: spent_between(c, now - days * 86_400, now))
    if not rows:
        return Completed(name="Idle", message=f"No model that costs money was asked in the last {days} day(s).")
    summary = await show_spending(rows, days)
    return Completed(message=summary, data=sum(one.spent for one in rows) / NANO)
