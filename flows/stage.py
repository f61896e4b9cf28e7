"""Gives a version of a skill a stage, from a form in the UI."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from skills import versions
from tasks.errors import BadInput
from tasks.ledger import the_ledger
from tasks.ledger.agents import all_agents
from tasks.ledger.releases import Stage, set_stage


@flow(name="stage", version="1", flow_run_name="{skill} {version} of {agent}: {stage}")
async def stage(
    agent: str = Field(min_length=1, description="Its name, as under Deployments."),
    skill: str = Field(min_length=1, description="One of its skills."),
    version: str = Field(min_length=1, description="A version that the skill's code has."),
    stage: Stage = Field(  # noqa: B008 (a form's field)
        default="shadow", description="A shadow rehearses, a canary works a share, live works all, retired nothing new."
    ),
    share: float = Field(default=0.1, gt=0, le=1, description="Of the cases, for a canary or a shadow."),
    who: str = Field(min_length=1, max_length=60, description="Your name, for the journal."),
    why: str = Field(default="", max_length=500),
) -> State[Any]:
    """Let a version rehearse what others work (shadow), work some cases (canary) or all (live), or no more (retired).

    It counts for cases that begin from now on, without a deploy; those in flight stay with the version they began with.
    Raises BadInput for an agent that never ran, a version that the code does not have, or shares above all cases.
    """
    ledger = the_ledger()
    if agent not in {row.name for row in await ledger.read("list the agents", all_agents)}:
        raise BadInput(f"No agent {agent!r} has ever run a tick here; see the names under Deployments.")
    if version not in (known := versions(skill)):
        raise BadInput(f"{skill} has no version {version!r} in its code. Versions there: {', '.join(known)}.")
    part = share if stage in ("canary", "shadow") else 0.0
    given: dict[str, Any] = dict(agent=agent, skill=skill, version=version, stage=stage, share=part)
    said = f"{who} in the UI"
    if not await ledger.write("set a stage", lambda c: set_stage(c, **given, who=said, why=why)):
        return Completed(message=f"{skill} {version} was {stage} already; nothing is changed.")
    return Completed(message=f"{skill} {version} is {stage} for cases that begin from now on.")
