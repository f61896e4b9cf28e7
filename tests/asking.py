"""A skill that asks a model twice for each case, with retries that do not wait."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow, task
from pydantic import BaseModel, Field

from skills import ONCE_PER_CASE, PAID, Case, CaseId, Outcome, Unusable, ask, each, perform, reply_to

AT_ONCE: dict[str, Any] = {**PAID, "retry_delay_seconds": 0}


class Topic(BaseModel):
    name: Literal["one", "two", "three"]
    sure: float = Field(ge=0, le=1)


class Answer(BaseModel):
    text: str


@task(cache_policy=ONCE_PER_CASE, **AT_ONCE)
async def sort(case: Case) -> Topic:
    return await ask(Topic, "You sort mail. " * 40, case=case)


@task(cache_policy=ONCE_PER_CASE, **AT_ONCE)
async def write(case: Case, topic: Topic) -> Answer:
    return await ask(Answer, "You answer mail. " * 40, case=case, topic=topic)


async def work(case: Case) -> Outcome:
    try:
        topic = await sort(case)
        answer = await write(case, topic)
    except Unusable as why:
        return Outcome(kind="handed_over", note=why.kind)
    await perform(reply_to(case, answer.text or "-"))
    return Outcome(kind="acted", answer=topic.name)


@flow(name="asking", version="1")
async def asking(cases: list[CaseId]) -> None:
    """Sort each mail and answer it."""
    await each(cases, work)


@task(cache_policy=ONCE_PER_CASE, **AT_ONCE)
async def misread(case: Case) -> Topic:
    topic = await ask(Topic, "You sort mail. ", case=case)
    raise ValueError(f"nothing is ready for {topic.name}")


@flow(name="stumbling", version="1")
async def stumbling(cases: list[CaseId]) -> None:
    """Fail by what a model answered."""

    async def work(case: Case) -> Outcome:
        await misread(case)
        return Outcome(kind="acted")

    await each(cases, work)
