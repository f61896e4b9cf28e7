"""Which runs Prefect's server holds for under way, and which of them do not end."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

END_SECONDS = 60.0  # for what is still on its way at the end
UNENDED: dict[str, Any] = {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}


async def under_way() -> set[UUID]:
    """The ids of runs of any kind that have not ended."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter

    async with get_client() as client:
        found = await client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate({"state": UNENDED}), limit=200)
    return {one.id for one in found}


async def runs_left() -> int:
    """How many do not end, of which each gets its time: the heartbeat goes on, so there may always be another one."""
    until = time.monotonic() + END_SECONDS
    first = await under_way()
    while first and time.monotonic() < until:
        await asyncio.sleep(1)
        first &= await under_way()
    return len(first)
