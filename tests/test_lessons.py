"""What people taught is used from the case that begins after it, once, and can be taken back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, select

from skills.answer_ticket import _knowledge
from tasks.home import taught
from tasks.lease import Lease
from tasks.ledger.cases import NotBegun, Work, begin, hand_back
from tasks.ledger.database import Ledger
from tasks.ledger.holders import register
from tasks.ledger.lessons import lessons_up_to, newest
from tasks.ledger.proposals import decide, propose, take_back
from tasks.ledger.reviewed import begin_review, end_review
from tasks.ledger.tables import lessons
from tasks.lessons import Known, known_before, known_to
from tasks.process import this_process
from tasks.replay import compared
from tasks.working import Hand
from tests import forked
from tests.conftest import arrival, fill

# SQLite keeps what it closed open while the same process has other connections, as the test's own has.
ALONE = """
import os
from skills.answer_ticket import _knowledge
from tasks.lessons import known_before
before = set(os.listdir("/proc/self/fd"))
assert len(known_before("practice", _knowledge())) == 1
assert set(os.listdir("/proc/self/fd")) == before, before
"""


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path))
    fill(ledger, tmp_path, [arrival(number, body=f"my words {number}") for number in range(1, 5)])
    ledger.write_now("register", lambda c: register(c, "h", this_process(), ""))
    return ledger


NOT_ASKED = compared([], [])


def teach(ledger: Ledger, *told: tuple[int, str]) -> int:
    """A review that proposes this, and a person who approves. Returns how many lessons count by it."""

    def job(c: Connection) -> int:
        review, _ = begin_review(c, "desk", 0, 10)
        number = propose(c, "desk", "practice", told, [], review, NOT_ASKED).id
        end_review(c, review, {})
        decide(c, number, True, "Ann", "")
        mine = (lessons.c.proposal == number, lessons.c.active)
        return c.execute(select(func.count()).select_from(lessons).where(*mine)).scalar_one()

    return ledger.write_now("teach", job)


def begun(ledger: Ledger, case: int) -> Work:
    found = ledger.write_now("begin", lambda c: begin(c, case, "h", "practice", "1", ""))
    assert not isinstance(found, NotBegun), found
    return found


def read_by(ledger: Ledger, work: Work) -> Known:
    hand = Hand(work, ledger, Lease(ledger, ""), "practice", "1", "")
    return asyncio.run(known_to(hand, _knowledge()))


def sources(known: Known) -> list[tuple[str, str]]:
    return [(one.source, one.label) for one in known[0] if one.source.startswith("case/")]


def test_a_case_in_flight_is_read_by_what_was_known_when_it_began(desk: Ledger) -> None:
    first = begun(desk, 1)
    assert teach(desk, (3, "refunds"), (4, "unknown")) == 2
    desk.write_now("hand back", lambda c: hand_back(c, first, "drained", False))
    assert sources(read_by(desk, begun(desk, 1))) == [], "a replay would read otherwise than before the restart"
    known = read_by(desk, begun(desk, 2))
    assert sources(known) == [("case/3", "refunds")]
    assert any("my words 4" in text for text in known[1]), "what is about nothing it knows was not learnt"


def test_what_is_taught_again_is_no_second_lesson_and_a_changed_mind_replaces_the_first(desk: Ledger) -> None:
    teach(desk, (1, "refunds"))
    teach(desk, (1, "refunds"), (2, "invoice"))
    teach(desk, (1, "invoice"))
    last = desk.read_now("look", lambda c: newest(c, "desk", "practice"))
    known = desk.read_now("look", lambda c: lessons_up_to(c, "desk", "practice", last))
    assert [(one.case, one.label) for one in known] == [(2, "invoice"), (1, "invoice")]
    assert desk.read_now("look", lambda c: newest(c, "night", "practice")) == 0, "another agent was taught too"


def test_what_a_proposal_taught_is_taken_back_as_a_whole_and_nothing_else(desk: Ledger) -> None:
    teach(desk, (1, "refunds"))
    teach(desk, (2, "refunds"), (3, "refunds"))
    assert desk.write_now("revert", lambda c: take_back(c, "desk", "practice", "Ann")) == (2, 2)
    assert sources(read_by(desk, begun(desk, 4))) == [("case/1", "refunds")]
    assert desk.write_now("revert", lambda c: take_back(c, "desk", "practice", "Ann")) == (1, 1)
    assert desk.write_now("revert", lambda c: take_back(c, "desk", "practice", "Ann")) is None


def test_a_process_that_others_are_forked_from_learns_the_lessons_and_keeps_no_connection(desk: Ledger) -> None:
    teach(desk, (3, "refunds"))
    assert known_before("practice", _knowledge()) == [], "nobody said that anything was taught"
    taught().touch()
    (known,) = known_before("practice", _knowledge())
    assert sources(known) == [("case/3", "refunds")]
    assert forked.run(code=ALONE).returncode == 0, "its forks would share a connection"
    assert read_by(desk, begun(desk, 1)) is known, "its memory would be trained anew in every run"
