"""Works given cases now with any skill, the same way as a tick does."""

from __future__ import annotations

from prefect import flow
from pydantic import Field

from skills import skill_flow
from tasks.records import CaseId


@flow(name="work", version="1", flow_run_name="{skill}: {cases}")
async def work(skill: str, cases: list[CaseId] = Field(min_length=1)) -> None:  # noqa: B008 (a form's limits)
    """Work given cases now.

    Args:
        skill: A skill by its name, whichever way it is written.
        cases: Ids of cases, as a tick's table shows them.
    """
    await skill_flow(skill)(cases=cases)
