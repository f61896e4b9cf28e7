"""What models cost is said of each intent, whatever else the same version is still busy with."""

from __future__ import annotations

import asyncio
import time
from itertools import count as numbers
from typing import Any

import pytest
from sqlalchemy import Connection, func, insert, select

from tasks.audits import count, draw
from tasks.ledger.database import Ledger
from tasks.ledger.reviewed import WEEK, Window, begins, spent, week_of
from tasks.ledger.tables import cases, model_calls, outcomes
from tests.audited import history, people_say

NUMBER = numbers()


def call(c: Connection, case: int, nano: int, at: float, version: str = "1", state: str = "answered") -> None:
    row: dict[str, Any] = dict(case=case, agent="desk", skill="answer", version=version, step="read", key="k", fence=1)
    row |= dict(holder="h", model="m", batch=False, state=state, reserved=0, reserved_tokens=0, spent=nano, began=at)
    c.execute(insert(model_calls).values(**row, ended=at + 1, response=f"r{next(NUMBER)}"))


def test_what_a_call_cost_is_said_of_the_intent_that_its_case_had(ledger: Ledger) -> None:
    truth = history(ledger, 1, 80, versions=1, wrong=0.0)
    last = begins(week_of(time.time()))
    window = Window("desk", last - WEEK, last, time.time())
    at = last - WEEK / 2

    def enter(c: Connection) -> dict[str, int]:
        wanted: dict[str, int] = {}
        for case, answer in c.execute(select(outcomes.c.case, outcomes.c.answer)).all():
            call(c, case, case, at)
            call(c, case, 1_000, at)
            wanted[answer] = wanted.get(answer, 0) + 1_000 + case
        call(c, 1, 10**9, at, state="failed")
        call(c, 1, 10**9, last - 2 * WEEK)  # of another week
        other = dict(agent="desk", source="maildir:/inbox", body="{}", recorded=at, skill="answer")
        for number, kind in ((1001, "in hand"), (1002, "rehearsed"), (1003, "of a version before")):
            c.execute(insert(cases).values(**other, id=number, key=kind, thread=kind))
            call(c, number, 5_000, at)
        row = dict(agent="desk", skill="answer", kind="acted", answer="refunds", confidence=0.9, flow_run="")
        row |= {"body": '{"evidence": []}'}
        c.execute(insert(outcomes).values(**row, case=1002, fence=1, version="1", rehearsed=True, at=at))
        c.execute(insert(outcomes).values(**row, case=1003, fence=1, version="2", rehearsed=False, at=at))
        # Worked again in live operation, a case is of the intent that it had last.
        c.execute(insert(outcomes).values(**row, case=2, fence=2, version="1", rehearsed=False, at=at + 1))
        was = c.execute(
            select(outcomes.c.answer).where(outcomes.c.case == 2).order_by(outcomes.c.id).limit(1)
        ).scalar_one()
        wanted[was] -= 1_002
        wanted["refunds"] += 1_002
        return wanted

    wanted = ledger.write_now("enter calls", enter)
    found = ledger.read_now("look", lambda c: spent(c, window))
    assert {key[2]: nano for key, nano in found.items()} == {**wanted, None: 15_000}
    asyncio.run(draw(ledger, window, 1_000))
    people_say(ledger, truth | {1003: True})
    figures = asyncio.run(count(ledger, window._replace(as_of=time.time())))
    lines = {(one.version, one.answer): one for one in figures.lines}
    assert {answer: round(lines["1", answer].usd * 1e9) for answer in wanted} == wanted
    assert round(lines["1", ""].usd * 1e9) == sum(wanted.values()) + 15_000 == round(figures.total.usd * 1e9)
    right = ledger.read_now(
        "look",
        lambda c: c.execute(
            select(func.count()).where(outcomes.c.answer == "invoice", outcomes.c.kind == "acted", outcomes.c.case != 2)
        ).scalar_one(),
    )
    assert lines["1", "invoice"].usd_per_right == pytest.approx(wanted["invoice"] / right / 1e9)
