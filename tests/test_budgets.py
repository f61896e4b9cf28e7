"""Limits on money hold under concurrency and kills; what waits for them is lost to nobody and goes on later."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import func, select

from flows.loop import agent_loop
from flows.spend import spend
from flows.top_up import top_up
from tasks.budgets import limits
from tasks.errors import BadInput
from tasks.ledger import calls
from tasks.ledger.calls import Call, answered, day_of, reopen, reserve
from tasks.ledger.cases import Work, begin
from tasks.ledger.database import Ledger
from tasks.ledger.spent import spent_between
from tasks.ledger.tables import attempts, cases, model_calls, spending
from tasks.prices import NANO
from tasks.records import Agent, Usage
from tests import forked
from tests.asking import asking
from tests.claude.cost import cost
from tests.claude.log import paid_twice
from tests.claude.running import Claude, claude_server_in
from tests.conftest import arrival, fill
from tests.one_tick import DESK

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
    return sum(cost(one) for one in server.entries() if one.billed) / NANO


def test_two_hundred_cases_at_once_never_spend_more_than_there_is_and_all_finish_after_a_top_up(
    desk: Claude, ledger: Ledger, tmp_path: Path
) -> None:
    budget = {"usd_per_day": 1}
    mails = [arrival(number, body="one two three four " * 80) for number in range(1, 201)]
    agent = fill(ledger, tmp_path, mails, concurrency=64, models=DEAR, budget=budget)
    ids = list(range(1, 201))
    asyncio.run(asking(cases=ids))
    first = states(ledger)
    assert first.get("parked", 0) > 20 and sum(first.values()) == 200, first
    assert 0.5 < spent(desk) <= 1, "the limit was passed, or hardly used"
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


def test_a_call_at_midnight_is_under_the_limit_of_the_day_that_it_is_counted_on(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = fill(ledger, tmp_path, [arrival(1)], budget={"usd_per_day": 1})
    work = ledger.write_now("begin", lambda c: begin(c, 1, "h", "practice", "1", ""))
    assert isinstance(work, Work)
    midnight = 1_900_022_400
    looks = itertools.count(midnight - 1)  # each look at the clock comes a second after the one before
    monkeypatch.setattr(calls, "time", SimpleNamespace(time=lambda: next(looks)))
    call = Call("step", "key", "practice", "1", "h", "claude-haiku-5-5", NANO, 1)
    number = ledger.write_now("ask", lambda c: reserve(c, work, call, partial(limits, agent, 1)))
    days = [day_of(midnight - 1), ""]
    opened = select(spending.c.day).where(spending.c.usd_open > 0, spending.c.scope == "agent")
    assert sorted(ledger.read_now("look", lambda c: c.execute(opened).scalars().all())) == sorted(days)
    assert isinstance(number, int)
    ledger.write_now("book", lambda c: answered(c, number, "msg", Usage(output_tokens=1), 500, 0))
    left = select(spending.c.usd_open).where(spending.c.usd_open != 0)
    assert ledger.read_now("look", lambda c: c.execute(left).all()) == []


@pytest.mark.parametrize(
    ("ledger_url", "side"),
    [("sqlite", "inside"), ("postgres", "inside"), ("sqlite", "after")],
    indirect=["ledger_url"],
)
def test_a_kill_in_the_booking_of_an_answer_leaves_no_money_uncounted(
    desk: Claude, ledger: Ledger, tmp_path: Path, prefect_server: str, side: str
) -> None:
    fill(ledger, tmp_path, [arrival(1), arrival(2)], models=DEAR, budget={"usd_per_day": 5}, concurrency=1)
    code = "import asyncio\nfrom tests.one_run import patch\nfrom tests.asking import asking\n"
    code += "patch()\nasyncio.run(asking(cases=[1, 2]))"
    env = {**os.environ, "DOORWAY": f"{side}:book the call:2", "PRACTICE_LOG": str(tmp_path / "log")}
    env |= {"PREFECT_API_URL": prefect_server, "PREFECT_LOGGING_LEVEL": "ERROR"}
    assert (killed := forked.run(code=code, env=env)).returncode == -signal.SIGKILL, killed.stdout
    asyncio.run(asking(cases=[1, 2]))
    assert states(ledger) == {"settled": 2}
    rows = ledger.read_now("look", lambda c: c.execute(select(model_calls).order_by(model_calls.c.id)).all())
    kinds = [row.state for row in rows]
    billed = [one.message_id for one in desk.entries() if one.billed]
    booked = [row.response for row in rows if row.response]
    if side == "inside":
        # The provider has answered, and nobody could know it.
        assert kinds == ["answered", "lost", *["answered"] * 3]
        assert len(billed) == 5 and booked == [one for one in billed if one != billed[1]]
        assert len(paid_twice(desk.entries())) == 1, "more was paid again than the call whose answer was being booked"
    else:
        assert kinds == ["answered"] * 4 and booked == billed
        assert paid_twice(desk.entries()) == [], "an answer that was booked was paid again"
        assert [row.replays for row in rows] == [1, 1, 0, 0], "what was saved is not shown"
    assert [row.reply for row in rows] == [""] * len(rows), "an answer is kept twice"
    place = (spending.c.scope == "agent", spending.c.day != "")
    row = ledger.read_now("look", lambda c: c.execute(select(spending).where(*place)).one())
    assert (row.usd, row.usd_open) == (sum(one.spent if one.response else one.reserved for one in rows), 0)
    assert row.usd >= round(spent(desk) * NANO), "the limit counts less than the provider does"
    told = ledger.read_now("look", lambda c: spent_between(c, 0, rows[-1].began + 1))
    assert sum(one.wasted for one in told) == 0
    assert sum(one.unknown for one in told) == (rows[1].reserved if side == "inside" else 0)


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_the_next_day_brings_a_parked_case_back_by_itself(
    desk: Claude, ledger: Ledger, tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path))
    for part in ("new", "cur", "tmp"):
        (tmp_path / "inbox" / part).mkdir(parents=True)

    def deliver(number: int) -> None:
        raw = f"Message-ID: <{number}@x.example>\nFrom: ann@x.example\nSubject: Late\n\nWhere is order {number}?"
        (tmp_path / "inbox/new" / str(number)).write_text(raw)

    def tick() -> str:
        agent = Agent.model_validate(DESK | settings)
        return str(asyncio.run(agent_loop(agent, dry_run=False, return_state=True)).name)

    settings: dict[str, object] = {}
    deliver(1)
    assert tick() == "Completed" and states(ledger) == {"settled": 1}
    first = ledger.read_now("look", lambda c: c.execute(select(model_calls).order_by(model_calls.c.id)).first())
    assert first is not None
    settings = {"budget": {"usd_per_day": (first.reserved + first.spent // 2) / NANO}}
    deliver(2)
    assert tick() == "Completed" and states(ledger) == {"settled": 1, "parked": 1}
    asked = len(desk.entries())
    assert tick() == "Idle" and len(desk.entries()) == asked, "it did not wait for the next day"
    # The clock of this process alone jumps before its tick writes anything.
    env = {**os.environ, "DOORWAY": "before:take agent:1", "SIGNAL": "JUMP", "CLOCK": "86400"}
    env |= {"PRACTICE_LOG": str(tmp_path / "log"), "PREFECT_API_URL": prefect_server, "AGENT": json.dumps(settings)}
    done = forked.run("tests.one_tick", env=env)
    assert done.returncode == 0, done.stdout
    assert "JUMP before take agent" in (tmp_path / "log").read_text()
    assert states(ledger) == {"settled": 2} and len(desk.entries()) > asked
