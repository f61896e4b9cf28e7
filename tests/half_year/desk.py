"""The skill of the simulated half-year: it answers a bank's customers by what it knows and was taught."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from prefect import flow, task

from skills import ONCE_PER_CASE, Case, CaseId, Outcome, ask, each, perform, policy, reply_to
from tasks.knowledge import Knowledge, read_knowledge
from tasks.offline import UNKNOWN
from tasks.records import Effect, Reading


@lru_cache(maxsize=1)
def _knowledge() -> Knowledge:
    return read_knowledge(Path(os.environ["HALF_YEAR_KNOWLEDGE"]))


@task(cache_policy=ONCE_PER_CASE)
async def read(case: Case) -> Reading:
    return await ask(Reading, "Which of the intents is the mail about?", knowledge=_knowledge(), case=case)


async def answer(case: Case) -> Outcome:
    reading = await read(case)
    said = {"answer": reading.intent, "confidence": reading.confidence, "evidence": reading.evidence}
    if reading.intent == UNKNOWN or not policy().acts_on(reading.intent, reading.confidence):
        await perform(Effect(kind="hand_over", subject=f"case {case.id}", body=f"perhaps {reading.intent}"))
        return Outcome(kind="handed_over", **said)
    await perform(reply_to(case, f"What we have to say about {reading.intent}."))
    return Outcome(kind="acted", **said)


@flow(name="half-year", version="1")
async def half_year(cases: list[CaseId]) -> None:
    """Answer a bank's customers."""
    await each(cases, answer)
