"""A verdict is noted once however often it is said, belongs to the outcome that was seen, and nobody's is overruled."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import insert, select, update

from flows.verdict import verdict
from tasks.errors import BadInput
from tasks.ledger.database import Ledger
from tasks.ledger.standing import Truth, newest_words, standing, truths
from tasks.ledger.tables import cases, outcomes, verdicts
from tasks.ledger.verdicts import say, verdicts_of
from tests.conftest import arrival, fill

NOW = 2e9


def conclude(
    ledger: Ledger, case: int, answer: str = "refund", kind: str = "acted", at: float = 0.0, rehearsed: bool = False
) -> int:
    """The next outcome of a case, as `settle` would leave it; returns its id."""
    row = dict(case=case, fence=1, agent="desk", skill="practice", version="1", kind=kind, answer=answer)
    row |= dict(confidence=0.9, rehearsed=rehearsed, flow_run="", at=at or time.time())
    row |= dict(body=json.dumps({"kind": kind, "answer": answer}))

    def job(c: Any) -> int:
        c.execute(update(cases).where(cases.c.id == case).values(state="settled"))
        return int(c.execute(insert(outcomes).values(row)).inserted_primary_key[0])

    return ledger.write_now("conclude", job)


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path) -> Ledger:
    """Four cases; all but the last have an outcome, of the same id."""
    fill(ledger, tmp_path, [arrival(number) for number in (1, 2, 3, 4)])
    assert [conclude(ledger, case) for case in (1, 2, 3)] == [1, 2, 3]
    return ledger


def said(ledger: Ledger, *args: Any, **kwargs: Any) -> bool:
    return ledger.write_now("say", lambda c: say(c, *args, **kwargs))


def kept(ledger: Ledger) -> list[tuple[Any, ...]]:
    columns = (verdicts.c.outcome, verdicts.c.auditor, verdicts.c.right, verdicts.c.label, verdicts.c.why)
    rows = ledger.read_now("look", lambda c: c.execute(select(*columns).order_by(verdicts.c.id)).all())
    return [tuple(row) for row in rows]


def truth(ledger: Ledger, outcome: int = 1, as_of: float = NOW) -> Truth | None:
    return ledger.read_now("judge", lambda c: standing(c, [outcome], as_of)).get(outcome)


def test_a_verdict_said_twice_is_one_and_a_changed_mind_may_change_back(desk: Ledger) -> None:
    assert said(desk, 1, True, "ann") and not said(desk, 1, True, " ann ")
    assert said(desk, 1, False, "ann", label="card") and said(desk, 1, True, "ann") and not said(desk, 1, True, "ann")
    assert [row[2] for row in kept(desk)] == [True, False, True]
    assert truth(desk) == (1, True, "", "person", 1, 0)


def test_the_same_verdict_said_by_many_at_once_is_one(desk: Ledger) -> None:
    others = [Ledger(desk.url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        new = list(pool.map(lambda one: said(one, 1, False, "ann", why="late"), others))
    assert sorted(new) == [False, False, False, True] and len(kept(desk)) == 1
    for one in others:
        one.close()


def test_a_verdict_on_a_case_worked_again_belongs_to_what_came_of_it_last(desk: Ledger) -> None:
    said(desk, 1, False, "ann")
    again = conclude(desk, 1, "card")
    assert truth(desk, again) is None, "nobody saw the new one yet"
    assert said(desk, 1, False, "ann"), "the same words about another outcome are another verdict"
    assert said(desk, 1, True, "bob", outcome=1), "a given outcome stays meant"
    assert [(row[0], row[1]) for row in kept(desk)] == [(1, "ann"), (again, "ann"), (1, "bob")]
    told = desk.read_now("look", lambda c: verdicts_of(c, 1))
    assert [one.outcome for one in told] == [1, again, 1]
    assert desk.read_now("look", lambda c: verdicts_of(c, 2)) == []


@pytest.mark.parametrize(
    ("case", "given", "says"),
    [
        (4, {}, "Case 4 has no outcome yet: it is open"),
        (99, {}, "There is no case 99"),
        (0, {}, "There is no case 0"),
        (10**40, {}, "There is no case 1000"),
        (1, {"outcome": 2}, "Case 1 has no outcome 2"),
        (1, {"outcome": 10**40}, "Case 1 has no outcome 1000"),
        (1, {"who": " "}, "Nobody says it"),
        (1, {"who": "x" * 81}, "who has more than 80 characters"),
        (1, {"label": "x" * 10_000_000}, "label has more than 120 characters"),
        (1, {"why": "x" * 10_000_000}, "why has more than 500 characters"),
        (1, {"why": "a\0b"}, r"why holds the character U\+0000"),
        (1, {"label": "\x1b[2J"}, r"label holds the character U\+001B"),
        (1, {"why": "\ud800"}, r"why holds the character U\+D800"),
    ],
)
def test_what_no_verdict_can_be_is_refused_with_the_reason(
    desk: Ledger, case: int, given: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadInput, match=says) as refused:
        said(desk, case, True, **{"who": "ann"} | given)
    assert len(str(refused.value)) < 200, "nobody reads ten million characters"
    assert kept(desk) == []


def test_lines_and_letters_of_all_languages_survive(desk: Ledger) -> None:
    assert said(desk, 1, False, "Ann", label="Rückerstattung", why="first line\n  second 👩‍💻 میخواهم")
    assert kept(desk) == [(1, "Ann", False, "Rückerstattung", "first line second 👩‍💻 میخواهم")]


# Who says what, in order; what it comes to: right, label, by whom, for and against it.
SAID: list[tuple[str, list[tuple[str, str, bool, str]], tuple[Any, ...]]] = [
    ("one person", [("person", "ann", False, "card")], (False, "card", "person", 0, 1)),
    ("a tie", [("person", "ann", True, ""), ("person", "bob", False, "card")], (None, "", "person", 1, 1)),
    (
        "a majority",
        [("person", "ann", True, "x"), ("person", "bob", False, "card"), ("person", "cy", False, "")],
        (False, "card", "person", 1, 2),
    ),
    (
        "labels that differ",
        [("person", "ann", False, "card"), ("person", "bob", False, "refund")],
        (False, "", "person", 0, 2),
    ),
    (
        "a mind changed",
        [("person", "ann", False, "card"), ("person", "bob", True, ""), ("person", "ann", True, "")],
        (True, "", "person", 2, 0),
    ),
    (
        "people over signals and judges",
        [("judge", "m", False, ""), ("signal", "s", False, ""), ("person", "ann", True, "")],
        (True, "", "person", 1, 0),
    ),
    (
        "a person's tie over a signal",
        [("person", "a", True, ""), ("person", "b", False, ""), ("signal", "s", False, "")],
        (None, "", "person", 1, 1),
    ),
    (
        "signals over judges",
        [("judge", "m", True, ""), ("judge", "n", True, ""), ("signal", "s", False, "")],
        (False, "", "signal", 0, 1),
    ),
    ("a judge alone", [("judge", "m", True, "")], (True, "", "judge", 1, 0)),
    (
        "a model with a person's name",
        [("person", "ann", True, ""), ("judge", "ann", False, "")],
        (True, "", "person", 1, 0),
    ),
]


@pytest.mark.parametrize(("words", "comes_to"), [one[1:] for one in SAID], ids=[one[0] for one in SAID])
def test_the_joint_truth_hides_no_disagreement(desk: Ledger, words: Any, comes_to: tuple[Any, ...]) -> None:
    for source, who, right, label in words:
        said(desk, 1, right, who, label, source=source)
        said(desk, 2, not right, who, source=source)
    assert truth(desk) == (1, *comes_to)
    assert len(kept(desk)) == 2 * len(words), "all of it is kept"
    newest = desk.read_now("look", lambda c: c.execute(select(newest_words(None, NOW).c.auditor)).all())
    assert len(newest) == 2 * len({(one[0], one[1]) for one in words})


def test_a_review_of_the_past_hears_nothing_of_what_was_said_since(desk: Ledger) -> None:
    said(desk, 1, True, "ann")
    desk.write_now("long ago", lambda c: c.execute(update(verdicts).values(at=100.0)))
    said(desk, 1, False, "ann")
    assert (truth(desk, as_of=99.0), truth(desk, as_of=100.0)) == (None, (1, True, "", "person", 1, 0))
    assert truth(desk) == (1, False, "", "person", 0, 1)


def test_all_truths_of_a_window_are_joined_in_one_statement(desk: Ledger) -> None:
    for case, right in ((1, True), (2, False)):
        said(desk, case, right, "ann")
    true = truths(select(outcomes.c.id).where(outcomes.c.id < 3), NOW)
    joined = outcomes.outerjoin(true, true.c.outcome == outcomes.c.id)
    found = select(outcomes.c.id, true.c.right).select_from(joined).order_by(outcomes.c.id)
    assert desk.read_now("look", lambda c: c.execute(found).all()) == [(1, True), (2, False), (3, None)]
    everything = desk.read_now("look", lambda c: standing(c, None, NOW))
    assert everything == desk.read_now("look", lambda c: standing(c, range(1, 40_000), NOW))
    assert everything == desk.read_now("look", lambda c: standing(c, select(outcomes.c.id), NOW))
    assert {one.outcome: one.right for one in everything.values()} == {1: True, 2: False}


def test_a_verdict_from_the_ui_says_what_was_noted_and_is_noted_once(
    desk: Ledger, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_LEDGER", desk.url)
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        given = dict(case=1, right=False, label="card", why="it was about a card", who="Ann")
        first, again = (asyncio.run(verdict(**given, return_state=True)) for _ in range(2))
        with pytest.raises(BadInput, match="Case 4 has no outcome yet"):
            asyncio.run(verdict(case=4, right=True, who="Ann"))
    assert first.is_completed() and "case 1 was wrong. The next review counts it" in first.message
    assert again.is_completed() and "already" in again.message
    assert kept(desk) == [(1, "Ann", False, "card", "it was about a card")]
