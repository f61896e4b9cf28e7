"""What a source tells besides its cases is kept in its order, judges once, and what is settled is told back to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import select, update

from flows.loop import agent_loop
from tasks import sources
from tasks.errors import BadInput
from tasks.ledger.arrivals import concluded, hear, recall, record
from tasks.ledger.database import Ledger
from tasks.ledger.story import story
from tasks.ledger.tables import agents, cases, markers, outcomes, signals, verdicts
from tasks.records import Agent, Note, Signal
from tasks.sources import Found, Known
from tests.conftest import arrival, fill
from tests.test_verdicts import conclude

AT = datetime(2026, 1, 2, tzinfo=UTC)
SOURCE = "maildir:/inbox"
BACK = Signal(key="<1@example.com>", what="came back", right=False, at=AT, why="it fires again")


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path) -> Ledger:
    fill(ledger, tmp_path, [arrival(1), arrival(2)])
    return ledger


def tell(ledger: Ledger, *found: Any) -> int:
    return ledger.write_now("record", lambda c: record(c, "desk", SOURCE, found))


def heard(ledger: Ledger) -> int:
    return ledger.write_now("hear", lambda c: hear(c, SOURCE))


def said(ledger: Ledger) -> list[tuple[Any, ...]]:
    columns = (verdicts.c.outcome, verdicts.c.source, verdicts.c.auditor, verdicts.c.right, verdicts.c.why)
    found = select(*columns).order_by(verdicts.c.id)
    return [tuple(row) for row in ledger.read_now("look", lambda c: c.execute(found).all())]


def told(ledger: Ledger, case: int) -> str:
    return "\n".join(line.what + line.words for line in ledger.read_now("tell", lambda c: story(c, case)))


# Notes


def test_a_note_is_found_again_under_its_own_name_only_and_the_newest_counts(desk: Ledger) -> None:
    tell(
        desk,
        Note(name="a/1", value=1),
        Note(name="A/2", value=2),
        Note(name="a%", value=3),
        Note(name="a/1", value=[4]),
    )
    desk.write_now("another source", lambda c: record(c, "desk", "maildir:/other", [Note(name="a/9", value=9)]))
    assert desk.read_now("recall", lambda c: recall(c, SOURCE, "a/")) == {"a/1": [4]}
    assert desk.read_now("recall", lambda c: recall(c, SOURCE, "a%")) == {"a%": 3}
    tell(desk, Note(name="a/1", value=None), Note(name="never", value=None))
    assert desk.read_now("recall", lambda c: recall(c, SOURCE, "")) == {"A/2": 2, "a%": 3}


def test_a_chunk_is_written_whole_or_not_at_all(desk: Ledger) -> None:
    def killed(c: Any) -> None:
        record(c, "desk", SOURCE, [arrival(3), Note(name="seen", value=3), BACK])
        raise BadInput("killed here")

    with pytest.raises(BadInput):
        desk.write_now("record", killed)
    assert desk.read_now("recall", lambda c: recall(c, SOURCE, "")) == {}
    assert desk.read_now("look", lambda c: len(c.execute(select(cases)).all())) == 2
    assert tell(desk, arrival(3), Note(name="seen", value=3)) == 1


# Signals


def test_a_signal_told_twice_is_one_verdict_on_the_newest_outcome(desk: Ledger) -> None:
    conclude(desk, 1)
    newest = conclude(desk, 1)
    tell(desk, BACK, BACK)
    tell(desk, BACK)
    others = [Ledger(desk.url) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(heard, others))
    assert said(desk) == [(newest, "signal", "came back", False, "it fires again")]
    assert heard(desk) == 0
    tell(desk, BACK)
    conclude(desk, 1)
    assert heard(desk) == 0 and len(said(desk)) == 1, "it was about the outcome of then"
    tell(desk, BACK.model_copy(update={"at": AT + timedelta(hours=1)}))
    assert heard(desk) == 1 and said(desk)[-1][0] > newest
    for one in others:
        one.close()


def test_a_signal_that_comes_before_the_outcome_waits_for_it(desk: Ledger) -> None:
    tell(desk, BACK)
    assert heard(desk) == 0 and said(desk) == []
    assert "signal of the source: came back: it fires again" in told(desk, 1)
    late = AT.timestamp() + 5_000
    about = conclude(desk, 1, at=late)
    assert heard(desk) == 1 and [row[0] for row in said(desk)] == [about]
    row = desk.read_now("look", lambda c: c.execute(select(verdicts)).one())
    assert row.at == late, "nobody could know it earlier"
    assert told(desk, 1).count("came back") == 1


def test_a_signal_that_judges_nothing_is_told_and_is_no_verdict(desk: Ledger) -> None:
    conclude(desk, 1)
    tell(desk, Signal(key=BACK.key, what="resolved", right=None, at=AT))
    assert heard(desk) == 0 and said(desk) == []
    assert "signal of the source: resolved" in told(desk, 1) and "resolved" not in told(desk, 2)


def test_a_source_may_ask_what_came_of_its_own_cases_only(desk: Ledger) -> None:
    conclude(desk, 1, "page", at=1.0)
    conclude(desk, 1, "silence", at=2.0, rehearsed=True)
    keys = [BACK.key, "<2@example.com>", "<9@example.com>"]
    found = desk.read_now("ask", lambda c: concluded(c, SOURCE, keys))
    assert {key: tuple(one) for key, one in found.items()} == {BACK.key: ("acted", "silence", True, 2.0)}
    assert desk.read_now("ask", lambda c: concluded(c, "maildir:/other", keys)) == {}


# A tick


class Outside:
    """A source that tells what the test gives it."""

    def __init__(self) -> None:
        self.news: list[Found | Exception] = []
        self.finished: list[str] = []
        self.refuses = False
        self.known: Known | None = None

    def canonical(self, url: str) -> str:
        return url

    def poll(self, url: str, known: Known) -> Iterator[Found]:
        self.known = known
        for one in self.news:
            if isinstance(one, Exception):
                raise one
            yield one

    def finish(self, url: str, names: Sequence[str]) -> None:
        if self.refuses:
            raise OSError("gone")
        self.finished += names


@pytest.fixture
def outside(ledger: Ledger, tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path))
    found = Outside()
    monkeypatch.setattr(sources, "_source", lambda url: found)
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield found


def tick(dry_run: bool = False) -> Any:
    settings = {"name": "desk", "source": "told:here", "skills": ["answer_ticket"]}
    effects = {"reply": "maildir:sent", "hand_over": "maildir:handover"}
    agent = Agent.model_validate(settings | {"effects": effects})
    return asyncio.run(agent_loop(agent, dry_run=dry_run, return_state=True))


def test_a_source_that_breaks_off_holds_up_nothing_that_it_brought_and_the_tick_says_so(
    outside: Outside, ledger: Ledger
) -> None:
    outside.news = [arrival(1), Note(name="place", value=1), BadInput("The API is gone."), Note(name="place", value=2)]
    state = tick()
    assert state.is_failed() and "The API is gone." in str(state.message)
    assert outside.known is not None and outside.known.recall("") == {"place": 1}
    assert set(outside.known.concluded([BACK.key])) == {BACK.key}, "its case was not worked"


def test_a_tick_that_froze_and_lost_its_agent_writes_nothing_over_what_came_later(
    outside: Outside, ledger: Ledger
) -> None:
    def another_took_over(url: str, known: Known) -> Iterator[Found]:
        ledger.write_now("take over", lambda c: c.execute(update(agents).values(holder="another")))
        yield Note(name="place", value="old")

    outside.poll = another_took_over  # type: ignore[method-assign]
    state = tick()
    assert state.is_failed() and "took over while this one was frozen" in str(state.message)
    assert ledger.read_now("recall", lambda c: recall(c, "told:here", "")) == {}


def test_a_tick_hears_what_was_told_before_its_case_was_worked(outside: Outside, ledger: Ledger) -> None:
    outside.news = [arrival(1), BACK]
    assert tick().name == "Completed"
    (row,) = ledger.read_now("look", lambda c: c.execute(select(signals)).all())
    assert row.outcome == ledger.read_now("look", lambda c: c.execute(select(outcomes.c.id)).scalar_one())
    assert [one[2] for one in said(ledger)] == ["came back"]


def test_a_source_is_told_what_is_settled_until_it_took_it_and_never_of_a_rehearsal(
    outside: Outside, ledger: Ledger
) -> None:
    outside.news = [arrival(1)]
    tick(dry_run=True)
    assert outside.finished == []
    outside.news = [arrival(2), arrival(2).model_copy(update={"marker": "file-2 again"})]
    outside.refuses = True
    assert tick().name == "Completed", "what could not be told ended the tick"
    assert outside.finished == []
    outside.refuses, outside.news = False, []
    assert tick().name == "Idle"
    assert outside.finished == ["file-2", "file-2 again"]
    tick()
    assert outside.finished == ["file-2", "file-2 again"]
    rows = ledger.read_now("look", lambda c: c.execute(select(markers.c.marker, markers.c.finished)).all())
    assert {row.marker: row.finished for row in rows} == {"file-1": False, "file-2": True, "file-2 again": True}


def test_a_plus_in_a_scheme_says_how_and_not_who(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(sources.importlib, "import_module", lambda name: asked.append(name) or SimpleNamespace())  # type: ignore[attr-defined]
    assert not sources.can_finish("maildir+odd:///x") and asked == ["tasks.sources.maildir"]
