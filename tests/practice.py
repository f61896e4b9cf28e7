"""A skill whose steps leave a line outside the ledger, so that a kill can be judged from outside."""

import asyncio
import os
import signal
from pathlib import Path

from prefect import flow, task
from pydantic import BaseModel

from skills import ONCE_PER_CASE, Case, CaseId, Outcome, each, perform, reply_to
from tasks.working import in_hand


class Note(BaseModel):
    words: int
    text: str


def say(line: str) -> None:
    handle = os.open(os.environ["PRACTICE_LOG"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


async def word_is_given() -> None:
    """Until the test gives the word; says once that this process has heard of a drain."""
    heard = False
    while not Path(os.environ["PRACTICE_LOG"]).with_name("word").exists():
        hand = in_hand("wait")
        if not heard and hand.lease.draining:
            heard = True
            say("draining")
        await asyncio.sleep(0.02)


@task(cache_policy=ONCE_PER_CASE, task_run_name="count {case.key}")
async def count(case: Case) -> Note:
    say(f"count {case.key}")
    if case.text == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    if case.text == "wait for the word":
        await word_is_given()
    await asyncio.sleep(0)
    return Note(words=len(case.text.split()), text=case.text)


@task(cache_policy=ONCE_PER_CASE, task_run_name="draft {case.key}")
async def draft(case: Case, note: Note) -> str:
    say(f"draft {case.key}")
    await asyncio.sleep(0)
    return f"You wrote {note.words} words: {note.text}"


async def work(case: Case) -> Outcome:
    note = await count(case)
    text = await draft(case, note)
    await perform(reply_to(case, text))
    return Outcome(kind="acted", answer="counted", confidence=1.0)


@flow(name="practice", version="1")
async def practice(cases: list[CaseId]) -> None:
    """Count the words of each case and reply."""
    await each(cases, work)
