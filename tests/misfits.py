"""Skills with one fault each, the faults that Prefect would swallow."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from prefect import flow, task
from pydantic import BaseModel

from skills import ONCE_PER_CASE, Case, CaseId, Outcome, each
from tests.practice import say


class Kept(BaseModel):
    words: int


class Opaque:
    pass


@task(cache_policy=ONCE_PER_CASE)
async def first(case: Case) -> Kept:
    say(f"first {case.key}")
    return Kept(words=3)


@task(cache_policy=ONCE_PER_CASE)
async def takes_anything(case: Case, what: Any) -> int:
    say(f"takes {case.key}")
    return 1


@task(cache_policy=ONCE_PER_CASE)
async def returns(case: Case, what: str) -> Any:
    say(f"returns {what} {case.key}")
    return {"object": Opaque(), "tuple": (1, 2), "nan": float("nan"), "bad keys": {1: "one"}}[what]


@task(cache_policy=ONCE_PER_CASE)
def plain_def(case: Case) -> int:
    say(f"plain {case.key}")
    return 1


@task(cache_policy=ONCE_PER_CASE, refresh_cache=True)
async def refreshed(case: Case) -> int:
    say(f"refreshed {case.key}")
    return 1


@task(cache_policy=ONCE_PER_CASE)
async def outer(case: Case) -> int:
    kept = await first(case)
    raise RuntimeError(f"after the inner step stored {kept.words}")


@task(cache_policy=ONCE_PER_CASE, retries=2)
async def flaky(case: Case) -> str:
    say(f"flaky {case.key}")
    if Path(os.environ["PRACTICE_LOG"]).read_text().count(f"flaky {case.key}") < 3:
        raise ConnectionError("not yet")
    return "done"


@task(cache_policy=ONCE_PER_CASE)
async def exits(case: Case) -> int:
    say(f"exits {case.key}")
    sys.exit("a library that thinks it is a program")


FAULTS = {
    "none": first,
    "unhashable": lambda case: takes_anything(case, Opaque()),
    "plain def": plain_def,
    "refreshed": refreshed,
    "object": lambda case: returns(case, "object"),
    "tuple": lambda case: returns(case, "tuple"),
    "nan": lambda case: returns(case, "nan"),
    "bad keys": lambda case: returns(case, "bad keys"),
    "outer": outer,
    "flaky": flaky,
    "exits": exits,
}


async def work(case: Case) -> Outcome:
    await first(case)
    found = FAULTS[case.text](case)
    if hasattr(found, "__await__"):
        await found
    return Outcome(kind="abstained")


@flow(name="misfits", version="1")
async def misfits(cases: list[CaseId]) -> None:
    """Work cases whose text names the fault."""
    await each(cases, work)


@flow(name="undeclared")
async def undeclared(cases: list[CaseId]) -> None:
    """A skill without a declared version."""
    await each(cases, work)
