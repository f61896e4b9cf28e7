"""A case that waits for a person's word on an effect is not forgotten when the word comes from the outside itself."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import select

from tasks.errors import InDoubt
from tasks.ledger.cases import Work, begin, park
from tasks.ledger.database import Ledger
from tasks.ledger.effects import confirm, dispatching, intend, unknown
from tasks.ledger.tables import cases, outcomes
from tasks.records import Effect, Receipt
from tests import practice
from tests.conftest import arrival, fill

REPLY = Effect(kind="reply", to="c1@example.com", body="hello")
OUT = Receipt(channel="maildir:/sent", reference="<out>", at=datetime.now(UTC))


def state(ledger: Ledger) -> str:
    return str(ledger.read_now("look", lambda c: c.execute(select(cases.c.state)).scalar()))


def on_its_way(ledger: Ledger, tmp_path: Path) -> Work:
    """A case whose reply was given to a process that nobody can ask any more."""
    fill(ledger, tmp_path, [arrival(1)])
    work = ledger.write_now("begin", lambda c: begin(c, 1, "h", "practice", "1", ""))
    assert isinstance(work, Work)
    ledger.write_now("intend", lambda c: intend(c, work, "key", "maildir:/sent", REPLY))
    ledger.write_now("dispatch", lambda c: dispatching(c, work, "key", "h", False))
    ledger.write_now("mark", lambda c: unknown(c, "key", "no answer"))
    return work


def test_a_confirmation_that_comes_late_opens_the_case_that_waits_for_it(ledger: Ledger, tmp_path: Path) -> None:
    work = on_its_way(ledger, tmp_path)
    ledger.write_now("park", lambda c: park(c, work, str(InDoubt("key", "reply", "no answer"))))
    ledger.write_now("confirm", lambda c: confirm(c, "key", "h", OUT))
    assert state(ledger) == "open"


def test_a_confirmation_leaves_a_case_alone_that_waits_for_something_else(ledger: Ledger, tmp_path: Path) -> None:
    work = on_its_way(ledger, tmp_path)
    ledger.write_now("park", lambda c: park(c, work, "a person shall approve it"))
    ledger.write_now("confirm", lambda c: confirm(c, "key", "h", OUT))
    assert state(ledger) == "parked"


def test_a_confirmation_right_before_the_case_is_parked_does_not_leave_it_behind(
    ledger: Ledger, tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(ledger, tmp_path, [arrival(1)])
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    monkeypatch.setenv("PRACTICE_LOG", str(tmp_path / "log"))
    performed = practice.perform
    doubts = []

    async def doubted(effect: Effect) -> Receipt:
        receipt = await performed(effect)
        if doubts:
            return receipt
        key = ledger.read_now("look", lambda c: str(c.exec_driver_sql("SELECT key FROM effects").scalar()))
        doubts.append(key)
        raise InDoubt(key, "reply", "an earlier dispatch may still be on its way")

    monkeypatch.setattr(practice, "perform", doubted)
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        asyncio.run(practice.practice(cases=[1]))
        assert state(ledger) == "open"
        asyncio.run(practice.practice(cases=[1]))
    assert state(ledger) == "settled" and len(list((tmp_path / "sent/new").iterdir())) == 1
    assert ledger.read_now("look", lambda c: len(c.execute(select(outcomes)).all())) == 1
