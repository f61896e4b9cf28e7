"""A judge's opinion is paid once, stands beside people's word, and enters no rate."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import func, insert, select

from flows.loop import agent_loop
from flows.review import review
from tasks.errors import BadInput
from tasks.ledger.database import Ledger
from tasks.ledger.reviewed import WEEK, begins, week_of
from tasks.ledger.tables import audits, cases, effects, model_calls, outcomes, reviews, verdicts
from tasks.ledger.verdicts import say
from tasks.records import Agent, Outcome
from tests.claude.log import paid_twice
from tests.claude.running import Claude, claude_server_in
from tests.conftest import arrival, fill, wait_for

CASES = 20


def brain(body: dict[str, Any]) -> dict[str, Any]:
    """Says that refunds are right, and of all else that it should have been something that nobody offered."""
    told = json.loads(body["messages"][0]["content"].partition("<concluded>")[2].partition("</concluded>")[0])
    return {"json": {"right": told["answer"] == "refunds", "should_be": "refunds" if told["acted"] else "the moon"}}


@pytest.fixture
def desk(ledger: Ledger, prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Claude]:
    for part in ("new", "cur", "tmp"):
        (tmp_path / "inbox" / part).mkdir(parents=True)
    with claude_server_in(tmp_path, brain="tests.test_judge:brain") as server:
        given = {"ANTHROPIC_API_KEY": "sk-test-1234", "ANTHROPIC_BASE_URL": server.url, "HOLDFAST_LEDGER": ledger.url}
        for name, value in (given | {"HOLDFAST_HOME": str(tmp_path), "PREFECT_API_URL": prefect_server}).items():
            monkeypatch.setenv(name, value)
        with temporary_settings({PREFECT_API_URL: prefect_server}):
            yield server


def tick() -> str:
    agent = Agent(name="desk", source="maildir:inbox", skills=["answer_ticket"])
    return asyncio.run(agent_loop(agent, dry_run=False, return_state=True)).name or ""


def last_week(ledger: Ledger, folder: Path) -> None:
    """Twenty outcomes of the week that ended: one half answered refunds, the other invoices; every fourth one acted."""
    fill(ledger, folder, [arrival(n) for n in range(1, CASES + 1)])
    common = dict(agent="desk", skill="practice", version="1", fence=1, rehearsed=False, flow_run="")
    body = Outcome(kind="acted").model_dump_json()
    at = begins(week_of(time.time())) - WEEK / 2
    rows = [
        dict(common, case=n, kind="handed_over" if n % 4 else "acted", confidence=0.7, at=at)
        | {"answer": "refunds" if n % 2 else "invoice", "body": body}
        for n in range(1, CASES + 1)
    ]
    ledger.write_now("enter", lambda c: c.execute(insert(outcomes), rows))
    ledger.write_now("settle", lambda c: c.execute(cases.update().values(state="settled")))


def test_opinions_are_paid_once_and_move_no_rate(desk: Claude, ledger: Ledger, tmp_path: Path) -> None:
    last_week(ledger, tmp_path)
    for _ in "12":
        asyncio.run(review(agent="desk", audits=CASES, judge=True))
    assert tick() == "Completed"
    wait_for(lambda: set(desk.state()["batches"].values()) <= {"ended"}, 20, "the end of the batches")
    assert tick() == "Completed"
    asked = [one for one in desk.entries("batch item") if one.billed]
    assert len(asked) == CASES and paid_twice(asked) == []
    assert ledger.read_now("look", lambda c: c.execute(select(func.count()).select_from(effects)).scalar()) == 0
    found = select(outcomes.c.case).join(audits, audits.c.outcome == outcomes.c.id)
    for case in ledger.read_now("look", lambda c: c.execute(found).scalars().all()):
        ledger.write_now("say", lambda c, n=case: say(c, n, n % 2 == 1 or n > 16, "Ann"))  # type: ignore[misc]
    for _ in "12":
        asyncio.run(review(agent="desk", audits=CASES, judge=True))
    last = select(reviews.c.figures).order_by(reviews.c.id.desc()).limit(1)
    told = json.loads(ledger.read_now("look", lambda c: c.execute(last).scalar_one()))
    assert told["total"]["answered"] == CASES and told["total"]["outcomes"] == CASES
    assert told["judge_agrees"]["pairs"] == CASES and 0 < told["judge_agrees"]["value"] < 1
    wrong = told["total"]["wrong"]["value"]
    assert wrong == pytest.approx(4 / 5), (
        "of what acted, people say that one in five was right, the judge that none was"
    )
    kept = select(verdicts.c.auditor, verdicts.c.label).where(verdicts.c.source == "judge").distinct()
    models = ledger.read_now("look", lambda c: c.execute(select(model_calls.c.model).distinct()).scalars().all())
    assert {tuple(row) for row in ledger.read_now("look", lambda c: c.execute(kept).all())} == {
        (models[0], ""),
        (models[0], "refunds"),
    }, "a name that nobody offered became a label"


def test_a_judge_without_a_model_is_refused_before_anything_is_drawn(
    desk: Claude, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last_week(ledger, tmp_path)
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(BadInput, match="A judge needs a model"):
        asyncio.run(review(agent="desk", audits=CASES, judge=True))
    assert ledger.read_now("look", lambda c: c.execute(select(func.count()).select_from(audits)).scalar()) == 0
