"""Gives a quarantined or parked case another chance, from a form in the UI."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from tasks.errors import BadInput
from tasks.ledger import the_ledger
from tasks.ledger.again import release as let_go


@flow(name="release", version="1", flow_run_name="release case {case}")
async def release(
    case: int = Field(ge=1, description="Its id, as a tick's table and `doctor` show it."),
    who: str = Field(min_length=1, max_length=60, description="Your name, for the journal."),
    why: str = Field(default="", max_length=500, description="What was mended, for the journal."),
) -> State[Any]:
    """Open a quarantined or parked case again, its finished steps kept; the next tick works it.

    Ends as Completed; raises BadInput if the case is neither quarantined nor parked.
    """
    if not await the_ledger().write(f"release case {case}", lambda c: let_go(c, case, f"{who} in the UI", why)):
        raise BadInput(f"Case {case} is neither quarantined nor parked; `why {case}` tells where it stands.")
    return Completed(message=f"Case {case} is open again; the next tick works it.")
