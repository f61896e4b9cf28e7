"""Tells the story of one case in the UI: what was begun, what its conclusion leant on, what went out, who said what."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from tasks.errors import BadInput
from tasks.ledger import the_ledger
from tasks.ledger.story import story
from tasks.report import show_story


@flow(name="why", version="1", flow_run_name="why case {case}")
async def why(case: int = Field(ge=1, description="Its id, as tables and reports show it.")) -> State[Any]:
    """Leave the story of a case under Artifacts, as `case-N`.

    Ends as Completed; raises BadInput if there is no such case. Customers' words stay in the ledger.
    """
    told = await the_ledger().read(f"tell the story of case {case}", lambda c: story(c, case))
    if not told:
        raise BadInput(f"There is no case {case}. A tick's table in the UI lists the ids.")
    await show_story(case, told)
    return Completed(message=f"{len(told)} lines; read them under Artifacts of this run, or as `case-{case}`.")
