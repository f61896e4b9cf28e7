"""A clock that jumps an hour, either way, makes no case wait for it, takes no lease away and starts no storm."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Connection, select, update

from flows import loop
from tasks.ledger.cases import BACKOFF_SECONDS, LONGEST_BACKOFF, OUTSIDE_SECONDS, Work, begin, hand_back, ready
from tasks.ledger.database import Ledger
from tasks.ledger.holders import Observer, register
from tasks.ledger.tables import attempts, cases, holders
from tasks.process import this_process
from tests.conftest import arrival, fill
from tests.test_kills import CASES, Scene

HOUR = 3600.0


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    real = time.time
    return lambda seconds: monkeypatch.setattr(time, "time", lambda: real() + seconds)


def can_begin(ledger: Ledger) -> list[int]:
    return [case for case, _ in ledger.read_now("look", lambda c: ready(c, "desk", 10))]


def fail(ledger: Ledger, case: int) -> None:
    def once(c: Connection) -> None:
        work = begin(c, case, "h", "practice", "1", "")
        assert isinstance(work, Work)
        assert hand_back(c, work, "out of luck", True) == "open"

    ledger.write_now("fail", once)


@pytest.mark.parametrize("seconds", [-HOUR, HOUR, -24 * HOUR])
def test_a_jump_makes_no_case_wait_longer_than_its_back_off(
    ledger: Ledger, tmp_path: Path, jump: Callable[[float], None], seconds: float
) -> None:
    fill(ledger, tmp_path, [arrival(1), arrival(2, thread="<1@example.com>"), arrival(3)])
    fail(ledger, 1)
    assert can_begin(ledger) == [3], "the back-off is not kept, or the conversation's order"
    jump(seconds)
    assert can_begin(ledger) == [1, 2, 3]


def test_every_back_off_is_known_to_be_one(ledger: Ledger, tmp_path: Path) -> None:
    assert max(*BACKOFF_SECONDS, *OUTSIDE_SECONDS) == LONGEST_BACKOFF < HOUR
    fill(ledger, tmp_path, [arrival(1)])
    waits = update(cases).values(not_before=time.time() + LONGEST_BACKOFF - 5)
    ledger.write_now("wait as long as any case does", lambda c: c.execute(waits))
    assert can_begin(ledger) == []


@pytest.mark.parametrize("seconds", [-HOUR, HOUR])
def test_a_jump_ends_no_lease(ledger: Ledger, jump: Callable[[float], None], seconds: float) -> None:
    elsewhere = this_process()._replace(machine="other", boot="other")
    ledger.write_now("register", lambda c: register(c, "other", elsewhere, ""))
    observer = Observer("me")
    for offset in (0.0, seconds, seconds):
        jump(offset)
        assert ledger.write_now("look", observer.look(time.monotonic())) == []
    assert ledger.read_now("look", lambda c: c.execute(select(holders.c.ended)).scalar_one()) == ""


@pytest.mark.parametrize(("seconds", "starts"), [(-HOUR, True), (0.0, True), (HOUR, False)])
def test_a_tick_from_before_a_jump_starts_no_storm(
    monkeypatch: pytest.MonkeyPatch, seconds: float, starts: bool
) -> None:
    planned = datetime.now(UTC) - timedelta(seconds=seconds)
    run = SimpleNamespace(run_count=1, auto_scheduled=True, expected_start_time=planned)
    monkeypatch.setattr(loop, "FlowRunContext", SimpleNamespace(get=lambda: SimpleNamespace(flow_run=run)))
    assert (loop._superseded(300) == "") is starts


@pytest.mark.parametrize("seconds", [-HOUR, HOUR])
@pytest.mark.parametrize("doorway", ["after:begin:2", "before:store step:3", "after:dispatch:1", "before:settle:2"])
def test_a_process_whose_clock_jumps_in_the_middle_finishes_its_cases_once(
    ledger: Ledger, tmp_path: Path, prefect_server: str, doorway: str, seconds: float
) -> None:
    scene = Scene(ledger, tmp_path, prefect_server)
    scene.env["CLOCK"] = str(seconds)
    run = scene.start(doorway, "JUMP")
    assert run.wait(110) == 0, (tmp_path / "errors").read_text()
    assert f"JUMP {doorway.rpartition(':')[0].replace(':', ' ')}" in scene.log.read_text()
    scene.judge(Counter(), set())
    begun = ledger.read_now("look", lambda c: c.execute(select(attempts)).all())
    assert len(begun) == CASES and {one.how for one in begun} == {"settled"}
    assert any(abs(one.ended - time.time() - seconds) < HOUR / 2 for one in begun), "the clock did not jump"
