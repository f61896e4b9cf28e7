"""The same five steps three ways: as a durable skill, as bare Prefect, and against a hand-written SQLite journal."""

import asyncio
import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from skills import ONCE_PER_CASE, Case, CaseId, Outcome, each

MODEL_SECONDS = float(os.environ.get("MODEL_SECONDS", "0.8"))
STEPS = tuple(os.environ.get("STEPS", "read think draft check file").split())
SPENT: list[float] = []
"""Seconds that the steps of each case took together, without what comes before and after them."""


@contextlib.contextmanager
def spending() -> Iterator[None]:
    began = time.perf_counter()
    yield
    SPENT.append(time.perf_counter() - began)


async def act(name: str, given: str) -> str:
    """One step's own work; `think` stands for a model call."""
    if name == "think" and MODEL_SECONDS:
        await asyncio.sleep(MODEL_SECONDS)
    return f"{name} of {given}"[:200]


@task(cache_policy=ONCE_PER_CASE, task_run_name="{name} {case.id}")
async def durable(case: Case, name: str, given: str) -> str:
    return await act(name, given)


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="{name} {number}")
async def bare(number: int, name: str, given: str) -> str:
    return await act(name, given)


async def work(case: Case) -> Outcome:
    text = case.subject
    with spending():
        for name in STEPS:
            text = await durable(case, name, text)
    return Outcome(kind="acted", answer="worked")


@flow(name="bench", version="1")
async def bench(cases: list[CaseId]) -> None:
    """Five steps for each case."""
    await each(cases, work)


async def side_by_side(numbers: list[int], concurrency: int, one: Callable[[int], Awaitable[None]]) -> None:
    places = asyncio.Semaphore(concurrency)

    async def placed(number: int) -> None:
        async with places:
            await one(number)

    async with asyncio.TaskGroup() as group:
        for number in numbers:
            group.create_task(placed(number))


@flow(name="bare", version="1")
async def bare_prefect(numbers: list[int], concurrency: int) -> None:
    """The same with nothing kept."""

    async def one(number: int) -> None:
        text = f"Question {number}"
        with spending():
            for name in STEPS:
                text = await bare(number, name, text)

    await side_by_side(numbers, concurrency, one)


async def journal(path: Path, numbers: list[int], concurrency: int) -> None:
    """What a careful author writes by hand: one row and one sync for each step, nothing else."""
    kept = sqlite3.connect(path, isolation_level=None)
    kept.execute("PRAGMA journal_mode=WAL")
    kept.execute("PRAGMA synchronous=FULL")
    kept.execute("CREATE TABLE IF NOT EXISTS steps (number, name, value, PRIMARY KEY (number, name))")

    async def one(number: int) -> None:
        text = f"Question {number}"
        began = time.perf_counter()
        for name in STEPS:
            query = "SELECT value FROM steps WHERE number = ? AND name = ?"
            if row := kept.execute(query, (number, name)).fetchone():
                text = json.loads(row[0])
                continue
            text = await act(name, text)
            kept.execute("INSERT INTO steps VALUES (?, ?, ?)", (number, name, json.dumps(text)))
        SPENT.append(time.perf_counter() - began)

    await side_by_side(numbers, concurrency, one)
    kept.close()
