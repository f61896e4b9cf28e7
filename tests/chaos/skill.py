"""The skill that the chaos suite kills by default: four steps, one of them asked twice, and one or two effects."""

from __future__ import annotations

import asyncio

from prefect import flow, task
from pydantic import BaseModel

from skills import ONCE_PER_CASE, Case, CaseId, Outcome, each, perform, reply_to
from tasks.records import Effect


class Note(BaseModel):
    words: int
    first: str


@task(cache_policy=ONCE_PER_CASE, task_run_name="read {case.key}")
async def read(case: Case) -> Note:
    await asyncio.sleep(0)
    words = case.text.split()
    return Note(words=len(words), first=words[0])


@task(cache_policy=ONCE_PER_CASE, task_run_name="look up {case.key} {turn}")
async def look_up(case: Case, turn: int) -> str:
    await asyncio.sleep(0.002)
    return f"fact {turn} for {case.key}"


@task(cache_policy=ONCE_PER_CASE, task_run_name="draft {case.key}")
async def draft(case: Case, note: Note, facts: list[str]) -> str:
    await asyncio.sleep(0.004)
    return f"You wrote {note.words} words, first {note.first}. {' '.join(facts)}"


async def work(case: Case) -> Outcome:
    note = await read(case)
    facts = [await look_up(case, turn) for turn in range(2)]
    text = await draft(case, note, facts)
    await perform(reply_to(case, text))
    if note.words % 2 == 0:
        await perform(Effect(kind="hand_over", subject=f"About {case.key}", body=text))
    return Outcome(kind="acted", answer=note.first, confidence=1.0)


@flow(name="chaos", version="1")
async def chaos(cases: list[CaseId]) -> None:
    """Answer a mail, and tell a person of every other one."""
    await each(cases, work)
