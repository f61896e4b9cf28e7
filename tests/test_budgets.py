"""Limits on money hold under concurrency and kills; what waits for them is lost to nobody and goes on later."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import func, select

from flows.spend import spend
from flows.top_up import top_up
from tasks.budgets import limits
from tasks.errors import BadInput
from tasks.ledger.calls import reopen
from tasks.ledger.database import Ledger
from tasks.ledger.tables import attempts, cases, model_calls, spending
from tasks.prices import NANO, prices
from tasks.records import Agent, Usage
from tests.asking import asking
from tests.claude.log import paid_twice
from tests.claude.running import Claude, claude_server_in
from tests.conftest import arrival, fill

DEAR = {"any": ["claude-fable-5-2"]}


@pytest.fixture
def desk(ledger: Ledger, prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Claude]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test-1234")
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    with claude_server_in(tmp_path) as server, temporary_settings({PREFECT_API_URL: prefect_server}):
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        yield server


def states(ledger: Ledger) -> dict[str, int]:
    found = select(cases.c.state, func.count()).group_by(cases.c.state)
    return {row[0]: row[1] for row in ledger.read_now("look", lambda c: c.execute(found).all())}


def spent(server: Claude) -> float:
    """USD, from the server's own log."""
    total = 0
    for one in server.entries():
        if one.billed:
            told = one.usage
            used = Usage(
                input_tokens=told["input_tokens"],
                output_tokens=told["output_tokens"],
                cache_write_5m=told["cache_creation_input_tokens"],
                cache_read=told["cache_read_input_tokens"],
            )
            total += prices().cost(one.model, used)
    return total / NANO


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_two_hundred_cases_at_once_never_spend_more_than_there_is_and_all_finish_after_a_top_up(
    desk: Claude, ledger: Ledger, tmp_path: Path
) -> None:
    budget = {"usd_per_day": 0.25}
    mails = [arrival(number) for number in range(1, 201)]
    agent = fill(ledger, tmp_path, mails, concurrency=64, models=DEAR, budget=budget)
    ids = list(range(1, 201))
    asyncio.run(asking(cases=ids))
    first = states(ledger)
    assert first.get("parked", 0) > 20 and sum(first.values()) == 200, first
    assert 0.1 < spent(desk) <= 0.25, "the limit was passed, or hardly used"
    told = ledger.read_now("look", lambda c: c.execute(select(cases).where(cases.c.state == "parked").limit(1)).one())
    assert "budget: the limit of agent 'desk'" in told.reason and "`top-up`" in told.reason
    asyncio.run(top_up(agent="desk", usd=5, tokens=0, skill="", case=0, who="Ann", why="a busy day"))
    back = ledger.write_now("reopen", lambda c: reopen(c, agent.name, lambda case: limits(agent, case)))
    assert back == first["parked"]
    asyncio.run(asking(cases=ids))
    assert states(ledger) == {"settled": 200}
    assert paid_twice(desk.entries(), answered=True) == []
    summary = asyncio.run(spend(days=1))
    assert summary == pytest.approx(spent(desk), abs=1e-9)
    open_ = ledger.read_now("look", lambda c: c.execute(select(func.sum(spending.c.usd_open))).scalar())
    assert open_ == 0, "money stays set aside for calls that have ended"


def test_a_limit_of_a_case_parks_it_alone(desk: Claude, ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, tmp_path, [arrival(1, body="long " * 20_000), arrival(2)], models=DEAR, budget={"usd_per_case": 0.3})
    asyncio.run(asking(cases=[1, 2]))
    rows = {row.id: row for row in ledger.read_now("look", lambda c: c.execute(select(cases)).all())}
    assert (rows[1].state, rows[2].state) == ("parked", "settled") and "limit of case '1'" in rows[1].reason


def test_a_limit_in_tokens_holds_too(desk: Claude, ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, tmp_path, [arrival(1)], budget={"tokens_per_day": 1_000})
    asyncio.run(asking(cases=[1]))
    assert states(ledger) == {"parked": 1} and desk.entries() == []


def test_what_a_dead_process_waited_for_stays_counted_as_if_it_was_paid(
    desk: Claude, ledger: Ledger, tmp_path: Path
) -> None:
    fill(ledger, tmp_path, [arrival(1)], models=DEAR, budget={"usd_per_day": 1})
    desk.fail("cut_after")
    asyncio.run(asking(cases=[1]))
    lost = select(model_calls.c.reserved).where(model_calls.c.state == "lost")
    kept = ledger.read_now("look", lambda c: c.execute(lost).scalar_one())
    paid = select(func.sum(model_calls.c.spent))
    known = ledger.read_now("look", lambda c: c.execute(paid).scalar())
    place = (spending.c.scope == "agent", spending.c.day != "")
    counted = ledger.read_now("look", lambda c: c.execute(select(spending.c.usd).where(*place)).scalar())
    assert counted == kept + known and kept > 0


def test_a_top_up_for_nobody_is_refused(desk: Claude, ledger: Ledger) -> None:
    with pytest.raises(BadInput, match="No agent"):
        asyncio.run(top_up(agent="nobody", usd=5, tokens=0, skill="", case=0, who="Ann", why=""))


def test_cases_without_money_cost_no_attempt_at_every_tick(desk: Claude, ledger: Ledger, tmp_path: Path) -> None:
    agent = fill(ledger, tmp_path, [arrival(1)], models=DEAR, budget={"usd_per_day": 0.01})
    assert isinstance(agent, Agent)
    asyncio.run(asking(cases=[1]))
    for _ in range(3):
        assert ledger.write_now("reopen", lambda c: reopen(c, "desk", lambda case: limits(agent, case))) == 0
    assert ledger.read_now("look", lambda c: c.execute(select(func.count()).select_from(attempts)).scalar()) == 1
