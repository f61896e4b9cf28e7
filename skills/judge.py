"""Say of what another skill concluded whether acting on it was right: a second opinion for the review."""

from __future__ import annotations

from prefect import flow, task
from pydantic import BaseModel, Field

from skills import ONCE_PER_CASE, PAID, Case, CaseId, Outcome, ask, each
from tasks.errors import BadInput
from tasks.ledger.judged import Judged

JUDGE = """
You audit the work of an agent. In <case> you find what somebody wrote, in <concluded> what the agent took it to be
about, whether it acted on that by itself, and what it sent. Say whether acting on that answer was right or, where it
did not act, would have been: not whether you would have worded it the same. If not, name the answer that it should
have been, out of `answers`, or leave that empty if none fits.
"""


class Opinion(BaseModel):
    """What the judge thinks."""

    right: bool = Field(description="Acting on the answer was right, or would have been.")
    should_be: str = Field(default="", max_length=120, description="Empty if it was right, or if no answer fits.")


@task(cache_policy=ONCE_PER_CASE, task_run_name="judge case {case.id}", **PAID)
async def weigh(case: Case, concluded: Judged) -> Opinion:
    """Ask in a batch, at half the price: the review is not in a hurry."""
    return await ask(Opinion, JUDGE, later=True, case=case, concluded=concluded)


async def opine(case: Case) -> Outcome:
    if "judged" not in case.attributes:
        raise BadInput("The judge works copies that the review makes; it is not a skill for an agent's own cases.")
    concluded = Judged.model_validate(case.attributes["judged"])
    said = await weigh(case, concluded)
    # A name that was not offered comes from the case's text, or from nowhere.
    label = said.should_be if said.should_be in concluded.answers and not said.right else ""
    return Outcome(kind="abstained", answer="right" if said.right else "wrong", note=label)


@flow(name="judge", version="1")
async def judge(cases: list[CaseId]) -> None:
    """Give a second opinion on each case."""
    await each(cases, opine)
