"""Decides on what a review proposed that a skill learns or leaves to people, from a form in the UI."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from tasks.home import taught
from tasks.ledger import the_ledger
from tasks.ledger.proposals import decide


@flow(name="approve", version="1", flow_run_name="{decision} proposal {proposal}")
async def approve(
    proposal: int = Field(ge=1, description="Its number, as the review's report shows it."),
    decision: Literal["approve", "decline"] = Field(description="Declined ones are not proposed again."),
    who: str = Field(min_length=1, max_length=60, description="Your name, for the journal."),
    why: str = Field(default="", max_length=500, description="No customer's words: Prefect keeps what stands here."),
) -> State[Any]:
    """Let a proposal count for cases that begin from now on, or refuse it.

    Ends as Completed; raises BadInput if there is no such proposal, or a newer one took its place.
    """
    yes = decision == "approve"
    if not await the_ledger().write(
        f"{decision} {proposal}", lambda c: decide(c, proposal, yes, f"{who} in the UI", why)
    ):
        return Completed(message=f"Proposal {proposal} was {decision}d before; nothing is changed.")
    taught().touch()
    return Completed(message=f"Proposal {proposal} is {decision}d{' and counts from the next case on' if yes else ''}.")
