"""A changed threshold counts for what is begun after it, and can be taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tasks.ledger.cases import NotBegun, Work, begin, hand_back
from tasks.ledger.database import Ledger
from tasks.ledger.holders import register
from tasks.ledger.reviewed import begin_review
from tasks.ledger.tables import journal
from tasks.ledger.thresholds import revert_threshold, set_threshold, threshold_of
from tasks.process import this_process
from tests.conftest import arrival, fill


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path) -> Ledger:
    fill(ledger, tmp_path, [arrival(1), arrival(2)], threshold=0.5)
    ledger.write_now("register", lambda c: register(c, "h", this_process(), ""))
    return ledger


def begun(ledger: Ledger, case: int) -> Work:
    found = ledger.write_now("begin", lambda c: begin(c, case, "h", "practice", "1", ""))
    assert not isinstance(found, NotBegun), found
    return found


def change(ledger: Ledger, to: float, **more: Any) -> bool:
    return ledger.write_now("set", lambda c: set_threshold(c, "desk", "practice", to, "the review", "tested", **more))


def test_a_case_in_flight_keeps_the_threshold_that_it_began_with(desk: Ledger) -> None:
    first = begun(desk, 1)
    assert first.policy.threshold == 0.5
    assert change(desk, 0.9)
    desk.write_now("hand back", lambda c: hand_back(c, first, "drained", False))
    assert begun(desk, 1).policy.threshold == 0.5, "a replay would take other turns"
    assert begun(desk, 2).policy.threshold == 0.9


def test_another_agents_or_skills_threshold_stays_as_it_is(desk: Ledger) -> None:
    change(desk, 0.9)
    for agent, skill in (("desk", "other"), ("night", "practice")):
        assert desk.read_now("look", lambda c, a=agent, s=skill: threshold_of(c, a, s)) is None  # type: ignore[misc]


def test_a_review_that_is_repeated_after_a_kill_changes_a_threshold_once(desk: Ledger) -> None:
    review, _ = desk.write_now("review", lambda c: begin_review(c, "desk", 0, 10))
    assert [change(desk, 0.8, review=review) for _ in range(2)] == [True, False]
    assert desk.write_now("revert", lambda c: revert_threshold(c, "desk", "practice", "Ann")) == 0.8
    assert desk.read_now("look", lambda c: threshold_of(c, "desk", "practice")) is None, "one change was made twice"


def test_a_change_taken_back_lets_the_one_before_count_and_both_are_in_the_journal(desk: Ledger) -> None:
    change(desk, 0.7)
    change(desk, 0.9)
    desk.write_now("revert", lambda c: revert_threshold(c, "desk", "practice", "Ann"))
    assert desk.read_now("look", lambda c: threshold_of(c, "desk", "practice")) == 0.7
    said = desk.read_now("look", lambda c: c.execute(select(journal.c.who, journal.c.what)).all())
    assert [one.who for one in said] == ["the review", "the review", "Ann"] and "0.90" in said[2].what


def test_nothing_is_taken_back_where_nothing_was_changed(desk: Ledger) -> None:
    assert desk.write_now("revert", lambda c: revert_threshold(c, "desk", "practice", "Ann")) is None
