"""One measurement, printed as one line of JSON; `speed` starts it in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import func, insert, select

from tasks.home import home
from tasks.ledger import the_ledger
from tasks.ledger.arrivals import record
from tasks.ledger.cases import begin, ready, settle
from tasks.ledger.holders import register
from tasks.ledger.tables import cases
from tasks.process import this_process
from tasks.records import Outcome
from tests.bench.skill import SPENT, STEPS, bare_prefect, bench, journal
from tests.conftest import arrival, fill


def entered(count: int, concurrency: int) -> list[int]:
    fill(the_ledger(), home(), [arrival(number) for number in range(1, count + 1)], concurrency=concurrency)
    return list(range(1, count + 1))


def timed(run: Any) -> float:
    began = time.perf_counter()
    asyncio.run(run)
    return time.perf_counter() - began


def settled_cases() -> int:
    found = select(func.count()).select_from(cases).where(cases.c.state == "settled")
    return the_ledger().read_now("count", lambda c: c.execute(found).scalar_one())


def way(kind: str, numbers: list[int], concurrency: int) -> Any:
    if kind == "durable":
        return bench(cases=numbers)
    if kind == "bare":
        return bare_prefect(numbers=numbers, concurrency=concurrency)
    return journal(home() / "journal.db", numbers, concurrency)


def batch(kind: str) -> dict[str, float]:
    """47 cases; one more before them pays for imports and connections, which is no step's cost."""
    numbers = entered(48, 8)
    asyncio.run(way(kind, numbers[47:], 1))
    return {"seconds": timed(way(kind, numbers[:47], 8))}


def step(kind: str) -> dict[str, float]:
    """One case of many steps, one after another: a step's whole cost, without the flow's and the case's."""
    numbers = entered(2, 1)
    SPENT.clear()
    timed(way(kind, numbers, 1))  # the first case warms up imports and connections
    found = {"miss_ms": SPENT[1] / len(STEPS) * 1000}
    if kind == "durable":
        reopen()
        SPENT.clear()
        timed(way(kind, numbers, 1))
        found["hit_ms"] = SPENT[1] / len(STEPS) * 1000
    return found


def reopen() -> None:
    """As after a death right before settle: every step is finished and every case is open."""
    the_ledger().write_now("reopen", lambda c: c.execute(cases.update().values(state="open")))


def thousand() -> dict[str, float]:
    numbers = entered(1000, 16)
    seconds = timed(bench(cases=numbers))
    return {"seconds": seconds, "settled": settled_cases()}


def settled() -> dict[str, float]:
    """A claim's cost and a tick's memory beside so many cases that are done."""
    rows, ledger = int(os.environ["SETTLED"]), the_ledger()
    agent = fill(ledger, home(), [])
    body = json.dumps(arrival(1).model_dump(mode="json", exclude={"marker"}))
    for start in range(0, rows, 20_000):
        many = [
            dict(
                agent="desk",
                source=agent.source,
                key=f"k{n}",
                thread=f"t{n}",
                body=body,
                recorded=0.0,
                skill="x",
                state="settled",
            )
            for n in range(start, min(start + 20_000, rows))
        ]
        ledger.write_now("fill", lambda c, many=many: c.execute(insert(cases), many))  # type: ignore[misc]
    arrivals = [arrival(number) for number in range(200)]
    ledger.write_now("record", lambda c: record(c, "desk", agent.source, arrivals))
    ledger.write_now("decide", lambda c: c.execute(cases.update().where(cases.c.state == "open").values(skill="x")))
    ledger.write_now("register", lambda c: register(c, "h" * 36, this_process(), ""))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    ids = ledger.read_now("see what is ready", lambda c: ready(c, "desk", 200))
    for case, _ in ids:
        take = partial(begin, case=case, holder="h" * 36, skill="x", version="1", flow_run="")
        work: Any = ledger.write_now("begin", take)
        end = partial(settle, work=work, outcome=Outcome(kind="acted"), skill="x", version="1", flow_run="")
        ledger.write_now("settle", end)
    claim = (time.perf_counter() - began) / len(ids) * 1000
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"rows": rows, "claim_ms": claim, "megabytes": grown}


def main() -> None:
    what, _, kind = sys.argv[1].partition("-")
    Path(home()).mkdir(parents=True, exist_ok=True)
    found = {"batch": batch, "step": step}[what](kind) if kind else {"thousand": thousand, "settled": settled}[what]()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
