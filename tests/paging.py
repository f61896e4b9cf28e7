"""A skill in two versions that pages a person, after a step that leaves a line outside the ledger."""

from __future__ import annotations

import itertools

from prefect import flow, task

from skills import ONCE_PER_CASE, Case, CaseId, Denied, Outcome, each, perform
from tasks.records import Effect
from tests.practice import say

FIRST, SECOND = "The disk of db1 is full.", "The disk of db1 is full, and so is its standby's."
RESTLESS = itertools.count()


@task(cache_policy=ONCE_PER_CASE)
async def look(case: Case) -> str:
    say(f"look {case.key}")
    return case.subject


async def page(case: Case, words: str) -> Outcome:
    subject = await look(case)
    if case.text == "restless":
        words = f"{words} {next(RESTLESS)}"
    try:
        await perform(Effect(kind="page", subject=subject, body=words))
    except Denied:
        if case.text != "resigned":
            raise
        return Outcome(kind="abstained", answer="nobody was paged")
    return Outcome(kind="acted", answer="page")


async def page_first(case: Case) -> Outcome:
    return await page(case, FIRST)


async def page_second(case: Case) -> Outcome:
    return await page(case, FIRST if case.text == "same" else SECOND)


@flow(name="paging", version="1")
async def paging(cases: list[CaseId]) -> None:
    """Page a person."""
    await each(cases, page_first)


@flow(name="paging", version="2")
async def paging_anew(cases: list[CaseId]) -> None:
    """Page a person, in other words."""
    await each(cases, page_second)
