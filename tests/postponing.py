"""A skill that can wait a day for its answer, and one real tick of an agent that has it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from unittest.mock import patch

from prefect import flow, task

from flows import loop
from skills import ONCE_PER_CASE, Case, CaseId, Outcome, Unusable, ask, each
from tasks.ledger.database import the_ledger
from tasks.records import Agent
from tests import one_run
from tests.asking import AT_ONCE, Topic


@task(cache_policy=ONCE_PER_CASE, **AT_ONCE)
async def sort(case: Case) -> Topic:
    return await ask(Topic, "You sort mail. " * 40, later=True, case=case)


async def work(case: Case) -> Outcome:
    try:
        topic = await sort(case)
    except Unusable as why:
        return Outcome(kind="handed_over", note=why.kind)
    return Outcome(kind="acted", answer=topic.name)


@flow(name="postponing", version="1")
async def postponing(cases: list[CaseId]) -> None:
    """Sort each mail, when it is cheap."""
    await each(cases, work)


def tick(**settings: object) -> str:
    """The name of the state in which it ends."""
    given = {"name": "desk", "source": "maildir:inbox", "skills": ["postponing"], **settings}
    here = {"catalogue": lambda: {"postponing": Path(__file__)}, "skill_flow": lambda *_: postponing}
    here["describe"] = lambda _: "Sort mail."
    with patch.multiple(loop, **here):
        state = asyncio.run(loop.agent_loop(Agent.model_validate(given), dry_run=False, return_state=True))
    return state.name or ""


def main() -> None:
    """A tick with the doorways of `one_run`. Called from `-c`: under `-m` the step would be another one."""
    the_ledger()
    one_run.patch()
    tick()
