"""Permits or denies an effect that waits for a person's word, from a form in the UI."""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import httpx
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from tasks.ledger import Ledger, the_ledger
from tasks.ledger.agents import all_agents
from tasks.ledger.approvals import agent_of, decide, what_waits
from tasks.records import Agent
from tasks.report import show_waiting
from tasks.ring import ring


@flow(name="permit", version="1", flow_run_name="{decision} an effect of case {case}")
async def permit(
    case: int = Field(ge=1, description="Its id, as the list of what waits shows it."),
    digest: str = Field(min_length=12, max_length=64, description="Of exactly the effect that you looked at."),
    decision: Literal["permit", "deny"] = Field(description="The first word counts, and nobody can change it."),
    subject: str = Field(default="", max_length=500, description="Only to send another subject. Prefect keeps it."),
    text: str = Field(default="", max_length=20_000, description="Only to send another text. Prefect keeps it."),
    data: dict[str, Any] | None = Field(  # noqa: B008 (a form's field)
        default=None, description="Only to send other data, such as fewer minutes."
    ),
    who: str = Field(min_length=1, max_length=60, description="Your name."),
    why: str = Field(default="", max_length=500, description="No customer's words: Prefect keeps what stands here."),
) -> State[Any]:
    """Let an effect leave as it was asked about, or with your words in place of the agent's, or not at all.

    Its case goes on where it stood. Ends as Completed; raises BadInput if somebody said otherwise before, or if the
    agent wants something else by now.
    """
    given = {"subject": subject, "body": text, "data": data}
    instead = {name: value for name, value in given.items() if value}
    word = (case, digest, decision == "permit", f"{who} in the UI", why, instead)
    ledger = the_ledger()
    new = await ledger.write(f"{decision} an effect of case {case}", lambda c: decide(c, *word))
    agent = await ledger.read("see whose case it is", lambda c: agent_of(c, case))
    await _show(ledger, agent)
    if not new:
        return Completed(message="This was said before; nothing is changed.")
    with contextlib.suppress(httpx.HTTPError):  # the heartbeat comes anyway
        await ring(ledger, agent)
    sent = "denied" if decision == "deny" else "permitted, with other words" if instead else "permitted"
    return Completed(message=f"The effect of case {case} is {sent}; the case goes on with its agent's next tick.")


async def _show(ledger: Ledger, name: str) -> None:
    for row in await ledger.read("list the agents", all_agents):
        if row.name == name:
            agent = Agent.model_validate_json(str(row.settings))
            await show_waiting(agent, await ledger.read("see what waits", lambda c: what_waits(c, name)))
