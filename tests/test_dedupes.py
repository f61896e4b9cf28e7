"""Where the outside itself refuses the same key twice, what was on its way is sent again, once nobody else can."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import select, update

from tasks import channels
from tasks.ledger.cases import Work, begin
from tasks.ledger.database import Ledger
from tasks.ledger.effects import dispatching, intend
from tasks.ledger.holders import register
from tasks.ledger.tables import cases, effects, holders
from tasks.process import this_process
from tasks.records import Effect, Receipt
from tasks.recovery import reconcile
from tests.conftest import arrival, fill
from tests.practice import practice
from tests.test_recovery import GONE


class Outside:
    """A channel that takes the same key once."""

    CAN_FIND = False
    DEDUPES = True

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}
        self.fails: Callable[[], None] = lambda: None

    def send(self, url: str, key: str, effect: Effect, sender: str) -> Receipt:
        self.taken[key] = self.taken.get(key, 0) + 1
        self.fails()
        return Receipt(channel=url, reference=key, at=datetime.now(UTC))


@pytest.fixture
def outside(ledger: Ledger, tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    found = Outside()
    monkeypatch.setattr(channels, "_channel", lambda url: found)
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    monkeypatch.setenv("PRACTICE_LOG", str(tmp_path / "log"))
    fill(ledger, tmp_path, [arrival(1)], effects={"reply": "hook:here"})
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield found


def states(ledger: Ledger) -> tuple[str, str]:
    found = select(cases.c.state, effects.c.state).join(effects, effects.c.case == cases.c.id)
    row = ledger.read_now("look", lambda c: c.execute(found).one())
    return row[0], row[1]


def work(ledger: Ledger) -> None:
    ledger.write_now("hurry", lambda c: c.execute(update(cases).values(not_before=0.0)))
    asyncio.run(practice(cases=[1]))


def test_an_answer_that_never_came_is_asked_for_again_instead_of_parking_the_case(
    outside: Outside, ledger: Ledger
) -> None:
    def cut() -> None:
        raise TimeoutError("no answer")

    outside.fails = cut
    work(ledger)
    assert states(ledger) == ("open", "intended")
    outside.fails = lambda: None
    work(ledger)
    assert states(ledger) == ("settled", "confirmed")
    assert list(outside.taken.values()) == [2], "under another key it would be a second one"


def dies_while_sending(ledger: Ledger, alive: bool) -> None:
    """Leave an effect on its way in the hands of a process that is gone, or not."""
    at_work = begin_of(ledger, alive)
    reply = Effect(kind="reply", to="c1@example.com", body="hello")
    key = "reply/c1@example.com/maildir:/inbox/<1@example.com>"
    ledger.write_now("intend", lambda c: intend(c, at_work, key, "hook:here", reply))
    ledger.write_now("dispatch", lambda c: dispatching(c, at_work, key, "old", False))
    ledger.write_now("hand back", lambda c: c.execute(update(cases).values(state="open", holder=None)))


def begin_of(ledger: Ledger, alive: bool) -> Work:
    ledger.write_now("register", lambda c: register(c, "old", this_process() if alive else GONE, ""))
    if not alive:
        ledger.write_now("end", lambda c: c.execute(update(holders).where(holders.c.id == "old").values(ended="dead")))
    # It was alive when it began.
    found = ledger.write_now("begin", lambda c: begin(c, 1, "another", "practice", "1", ""))
    assert isinstance(found, Work)
    return found


def test_what_a_dead_process_was_sending_is_sent_again(outside: Outside, ledger: Ledger) -> None:
    dies_while_sending(ledger, alive=False)
    work(ledger)
    assert states(ledger) == ("settled", "confirmed") and list(outside.taken.values()) == [1]


def test_what_a_living_process_is_sending_is_not_sent_beside_it(outside: Outside, ledger: Ledger) -> None:
    dies_while_sending(ledger, alive=True)
    work(ledger)
    assert states(ledger) == ("parked", "unknown") and not outside.taken


def test_the_recovery_takes_back_what_counts_once_outside(outside: Outside, ledger: Ledger) -> None:
    dies_while_sending(ledger, alive=False)
    (said,) = asyncio.run(reconcile(ledger))
    assert "sent again when the case is worked" in said and states(ledger) == ("open", "intended")
    work(ledger)
    assert states(ledger) == ("settled", "confirmed") and list(outside.taken.values()) == [1]
