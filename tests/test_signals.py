"""A customer who writes again about the same matter speaks against the answer; a thank-you and a robot do not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import insert, select

from tasks.ledger.arrivals import record
from tasks.ledger.database import Ledger
from tasks.ledger.signals import UNKNOWN, WITHIN_SECONDS, collect_signals, keep, signals
from tasks.ledger.standing import standing
from tasks.ledger.tables import outcomes, verdicts
from tasks.ledger.verdicts import say
from tasks.offline import UNKNOWN as OFFLINE_UNKNOWN
from tests.conftest import arrival, fill
from tests.test_verdicts import conclude

DAY = 86_400.0
MONDAY = 1_790_000_000.0
NEVER = 4e9


class Mail(NamedTuple):
    """One mail of a conversation and what came of it; times in days since MONDAY."""

    at: float
    answer: str = "refund"
    kind: str = "acted"
    text: str = "It still has not come."
    sender: str = "ann@x.example"
    automatic: bool = False
    thread: str = "t"
    rehearsed: bool = False
    settled: float = 0.01
    arrived: float = 0.0
    """Days before it was recorded."""


def converse(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, *mails: Mail) -> None:
    """Record and settle mails at the times that they say; case and outcome ids are their places, from 1."""
    for number, mail in enumerate(mails, 1):
        recorded = MONDAY + mail.at * DAY
        written = datetime.fromtimestamp(recorded - mail.arrived * DAY, UTC)
        given = dict(sender=mail.sender, text=mail.text, arrived=written, attributes={"automatic": mail.automatic})
        came = arrival(number, thread=mail.thread).model_copy(update=given)
        with monkeypatch.context() as patched:
            patched.setattr("tasks.ledger.cases.time.time", lambda now=recorded: now)
            ledger.write_now("record", lambda c, came=came: record(c, "desk", "maildir:/inbox", [came]))  # type: ignore[misc]
        if mail.answer:
            conclude(ledger, number, mail.answer, mail.kind, recorded + mail.settled * DAY, mail.rehearsed)


def against(ledger: Ledger, since: float = MONDAY, until: float = NEVER) -> list[tuple[int, int]]:
    """Which outcomes which later cases speak against."""
    found = ledger.read_now("look", lambda c: signals(c, "desk", since, until))
    return [(one.outcome, one.by) for one in found]


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path) -> Ledger:
    fill(ledger, tmp_path, [])
    return ledger


QUOTE = "\n\nOn Monday, desk wrote:\n> Your refund is on its way. Thank you for your patience?\n"
FIRST = Mail(0)
CONVERSATIONS: list[tuple[str, list[Mail], list[tuple[int, int]]]] = [
    ("the same matter again", [FIRST, Mail(1)], [(1, 2)]),
    ("nobody could tell what it is about", [FIRST, Mail(1, UNKNOWN, "handed_over")], [(1, 2)]),
    ("another matter", [FIRST, Mail(1, "card")], []),
    ("not settled yet", [FIRST, Mail(1, "")], []),
    ("a person passed it over as nothing", [FIRST, Mail(1, kind="abstained")], []),
    ("an out-of-office note", [FIRST, Mail(1, automatic=True)], []),
    ("a thank-you", [FIRST, Mail(1, text="Hello,\nthank you, that helped!" + QUOTE)], []),
    ("nothing but the quote", [FIRST, Mail(1, text=QUOTE)], []),
    ("a question after thanks", [FIRST, Mail(1, text="Thanks. And when does it come?" + QUOTE)], [(1, 2)]),
    (
        "a complaint with thanks at its end",
        [FIRST, Mail(1, text="My refund has not arrived, please look into it.\nThanks, Ann")],
        [(1, 2)],
    ),
    ("somebody else", [FIRST, Mail(1, sender="eve@x.example")], []),
    ("nobody", [Mail(0, sender=""), Mail(1, sender="")], []),
    ("another conversation", [FIRST, Mail(1, thread="u")], []),
    ("written before the answer came", [FIRST, Mail(0.5, arrived=0.495)], []),
    ("recorded before the answer went", [FIRST, Mail(0.005)], []),
    ("14 days after", [FIRST, Mail(14.01)], [(1, 2)]),
    ("later than 14 days", [FIRST, Mail(14.02)], []),
    ("nothing had left", [Mail(0, rehearsed=True), Mail(1)], []),
    ("handed over at first", [Mail(0, kind="handed_over"), Mail(1)], []),
    ("a person answered meanwhile", [FIRST, Mail(1, kind="handed_over"), Mail(2)], [(1, 2)]),
    ("a thank-you in between", [FIRST, Mail(1, "ignored", "abstained"), Mail(2)], [(1, 3)]),
    ("again and again", [FIRST, Mail(1), Mail(2)], [(1, 2), (2, 3)]),
    ("two before the next answer", [FIRST, Mail(1, settled=2), Mail(2, settled=2)], [(1, 2), (1, 3)]),
]


@pytest.mark.parametrize(("mails", "speaks"), [one[1:] for one in CONVERSATIONS], ids=[one[0] for one in CONVERSATIONS])
@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_only_a_customer_who_is_not_helped_speaks_against_an_answer(
    desk: Ledger, monkeypatch: pytest.MonkeyPatch, mails: list[Mail], speaks: list[tuple[int, int]]
) -> None:
    converse(desk, monkeypatch, *mails)
    assert against(desk) == speaks


def test_each_conversation_is_judged_for_itself_on_both_databases(
    desk: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    mails: list[Mail] = []
    speak: list[tuple[int, int]] = []
    for name, some, speaks in CONVERSATIONS:
        speak += [(first + len(mails), by + len(mails)) for first, by in speaks if all(one.answer for one in some)]
        # One that is not settled would part the ids of outcomes from those of cases.
        mails += [one._replace(thread=name + one.thread) for one in some if all(one.answer for one in some)]
    converse(desk, monkeypatch, *mails)
    assert len(speak) > 8 and against(desk) == speak
    assert desk.read_now("look", lambda c: signals(c, "another", MONDAY, NEVER)) == []


def test_a_window_knows_the_answers_in_it_and_what_came_later(desk: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    converse(desk, monkeypatch, FIRST, Mail(7), Mail(9))
    week = MONDAY + 7 * DAY
    assert against(desk, until=week) == [(1, 2)]
    assert against(desk, since=week) == [(2, 3)]
    assert against(desk, since=week, until=week) == []
    assert WITHIN_SECONDS > 7 * DAY and UNKNOWN == OFFLINE_UNKNOWN


def test_what_a_redo_makes_of_the_later_case_is_no_new_signal(desk: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    converse(desk, monkeypatch, FIRST, Mail(1, "card"))
    conclude(desk, 2, "refund", at=MONDAY + 3 * DAY)
    assert against(desk) == []


def collected(ledger: Ledger) -> int:
    return ledger.write_now("collect", lambda c: collect_signals(c, "desk", MONDAY, NEVER))


def test_a_signal_is_kept_once_whoever_collects_and_stays_what_it_was(
    desk: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    converse(desk, monkeypatch, FIRST, Mail(1), Mail(2))
    seen = desk.read_now("look", lambda c: signals(c, "desk", MONDAY, NEVER))
    others = [Ledger(desk.url) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(collected, others)) == [0, 0, 2]
    assert collected(desk) == 0 and against(desk) == []
    assert desk.write_now("keep what was seen before", lambda c: keep(c, seen)) == 0
    conclude(desk, 2, "card", at=MONDAY + 3 * DAY)
    assert collected(desk) == 0, "a redo of the later case is no new signal"
    rows = desk.read_now("look", lambda c: c.execute(select(verdicts).order_by(verdicts.c.id)).all())
    assert [(one.outcome, one.source, one.auditor, one.right) for one in rows] == [
        (1, "signal", "wrote again", False),
        (2, "signal", "wrote again", False),
    ]
    assert "case 2 of the same conversation" in rows[0].why
    assert [one.at for one in rows] == [MONDAY + 1.01 * DAY, MONDAY + 2.01 * DAY], "when anybody could know"
    for one in others:
        one.close()


def test_a_person_is_heard_before_a_signal_and_the_source_is_told(
    desk: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    converse(desk, monkeypatch, FIRST, Mail(1), Mail(2))
    collected(desk)
    desk.write_now("say", lambda c: say(c, 1, True, "ann"))
    truth = desk.read_now("look", lambda c: standing(c, None, NEVER))
    assert [(one.right, one.source) for one in truth.values()] == [(True, "person"), (False, "signal")]
    early = desk.read_now("look", lambda c: standing(c, None, MONDAY + DAY))
    assert early == {}, "nobody knew on Tuesday"


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_conversation_of_thousands_is_walked_through_and_not_compared_with_itself(desk: Ledger) -> None:
    number = 3_000
    mails = [arrival(n, thread="t").model_copy(update={"sender": "eve@x.example"}) for n in range(1, number + 1)]
    desk.write_now("record", lambda c: record(c, "desk", "maildir:/inbox", mails))
    first: dict[str, Any] = dict(fence=1, agent="desk", skill="s", version="1", kind="acted", answer="refund")
    first |= dict(rehearsed=False, body="{}", flow_run="")
    rows = [first | dict(case=n, at=NEVER + n) for n in range(1, number + 1)]
    desk.write_now("settle", lambda c: c.execute(insert(outcomes), rows))
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    with desk.engine.connect().execution_options(reads=True) as c, c.begin():
        c.connection.driver_connection.set_progress_handler(count, 1_000)  # type: ignore[union-attr]
        assert signals(c, "desk", MONDAY, NEVER) == []
    assert 0 < steps < number * number / 10_000, "as many of the database's steps as there are pairs"
