"""Notes whether what came of a case was right, from a form in the UI."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from tasks.ledger import the_ledger
from tasks.ledger.verdicts import say


@flow(name="verdict", version="1", flow_run_name="verdict on case {case}")
async def verdict(
    case: int = Field(ge=1, description="Its id, as a tick's table shows it."),
    right: bool = Field(
        description="Was acting on its answer right? For a case that was handed over or abstained from: would acting "
        "on the answer that its table shows have been right?"
    ),
    label: str = Field(default="", max_length=120, description="What the answer should have been, such as an intent."),
    why: str = Field(default="", max_length=500, description="No customer's words: Prefect keeps what stands here."),
    who: str = Field(min_length=1, max_length=80, description="Your name: your newest word on an outcome counts."),
) -> State[Any]:
    """Note a verdict on the newest outcome of a case; the next review counts it.

    Ends as Completed; raises BadInput if there is no such case or nothing came of it yet.
    """
    new = await the_ledger().write(
        f"note a verdict on case {case}", lambda c: say(c, case, right, who, label=label, why=why)
    )
    if not new:
        return Completed(message=f"This was said of case {case} already; nothing is changed.")
    return Completed(message=f"Noted: case {case} was {'right' if right else 'wrong'}. The next review counts it.")
