"""Adds to what an agent may spend on models today, from a form in the UI."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from tasks.errors import BadInput
from tasks.ledger import the_ledger
from tasks.ledger.again import add_to_limit


@flow(name="top-up", version="1", flow_run_name="top {agent} up by {usd} USD")
async def top_up(
    agent: str = Field(min_length=1, description="Its name, as under Deployments."),
    usd: float = Field(default=0, ge=0, description="Added to this agent's limit for today (UTC)."),
    tokens: int = Field(default=0, ge=0, description="The same for a limit in tokens."),
    skill: str = Field(default="", description="Add to this skill's limit for today instead."),
    case: int = Field(default=0, ge=0, description="Add to this case's own limit instead; 0 for none."),
    who: str = Field(min_length=1, max_length=60, description="Your name, for the journal."),
    why: str = Field(default="", max_length=500, description="For the journal."),
) -> State[Any]:
    """Raise a limit once; the next tick goes on with the cases that waited for it, where they stood.

    Ends as Completed; raises BadInput if nothing is added or the agent is not known.
    """
    if not usd and not tokens:
        raise BadInput("Nothing is added: give an amount in usd or tokens.")
    more = (agent, usd, tokens, skill, case, f"{who} in the UI", why)
    if not await the_ledger().write(f"top {agent} up", lambda c: add_to_limit(c, *more)):
        raise BadInput(f"No agent {agent!r} has ever run a tick here; see the names under Deployments.")
    return Completed(message=f"{agent} may spend {usd:.2f} USD and {tokens} tokens more; its next tick goes on.")
