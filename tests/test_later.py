"""What can wait is paid at half price, and once, whenever a process is killed; its cases hold no place meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import Row, select

from tasks import batches
from tasks.ledger.database import Ledger
from tasks.ledger.tables import attempts, cases, model_calls, outcomes, spending
from tests import forked
from tests.claude.asking import said, talk
from tests.claude.cost import cost
from tests.claude.log import paid_twice
from tests.claude.running import Claude, claude_server_in
from tests.conftest import wait_for
from tests.postponing import tick

SQLITE = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
MAILS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Claude]:
    with claude_server_in(tmp_path_factory.mktemp("claude")) as running:
        yield running


@pytest.fixture
def desk(
    server: Claude, ledger: Ledger, prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Claude]:
    server.stop()
    server.log.unlink(missing_ok=True)
    server.start()
    server.control(batch_delay=None)
    for part in ("new", "cur", "tmp"):
        (tmp_path / "inbox" / part).mkdir(parents=True)
    for n in range(1, MAILS + 1):
        mail = f"Message-ID: <{n}@x.example>\nFrom: c{n}@example.com\nSubject: Question {n}\n\nmail {n}"
        (tmp_path / "inbox/new" / f"m{n}").write_text(mail)
    given = {
        "ANTHROPIC_API_KEY": "sk-test-1234",
        "ANTHROPIC_BASE_URL": server.url,
        "HOLDFAST_LEDGER": ledger.url,
        "HOLDFAST_HOME": str(tmp_path),
        "PRACTICE_LOG": str(tmp_path / "log"),
        "PREFECT_API_URL": prefect_server,
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield server


def end(desk: Claude) -> None:
    """Let the provider work on all batches that it has."""
    desk.control(end_batches=True)
    wait_for(lambda: set(desk.state()["batches"].values()) <= {"ended"}, 20, "the end of the batches")


def killed_tick(doorway: str) -> None:
    """A tick in a process of its own that is killed at a write to the ledger."""
    done = forked.run(code="from tests.postponing import main; main()", env={**os.environ, "DOORWAY": doorway})
    assert done.returncode == -signal.SIGKILL, done.stdout


def rows(ledger: Ledger, table: object) -> list[Row]:  # type: ignore[type-arg]
    return ledger.read_now("look", lambda c: list(c.execute(select(table)).all()))  # type: ignore[call-overload]


def states(ledger: Ledger) -> list[str]:
    return sorted(row.state for row in rows(ledger, cases))


def settled_and_paid_once(desk: Claude, ledger: Ledger, sent: int = 1) -> None:
    """Every case is settled, every answer was booked at half its price, and the provider made so many batches."""
    assert states(ledger) == ["settled"] * MAILS
    items = [one for one in desk.entries("batch item") if one.billed]
    assert paid_twice(items) == [] and desk.entries("message") == []
    assert sum(one.status == 200 for one in desk.entries("batch")) == sent
    booked = {row.response: row.spent for row in rows(ledger, model_calls) if row.state == "answered"}
    assert booked.keys() == {one.message_id for one in items}
    assert all(abs(2 * booked[one.message_id] - cost(one)) <= 1 for one in items)
    assert all(row.batch and row.state in ("answered", "failed") for row in rows(ledger, model_calls))
    assert {row.usd_open for row in rows(ledger, spending)} == {0}


def test_a_case_that_waits_for_a_batch_holds_no_place_and_is_booked_at_half_price(desk: Claude, ledger: Ledger) -> None:
    assert tick() == "Completed"
    assert [one.kind for one in desk.entries()] == ["batch"] and states(ledger) == ["open"] * MAILS
    assert tick() == "Idle" and len(rows(ledger, attempts)) == MAILS, "cases that wait were begun again"
    assert all(row.usd_open > 0 for row in rows(ledger, spending)), "what waits is not counted by the limits"
    end(desk)
    assert tick() == "Completed"
    settled_and_paid_once(desk, ledger)
    assert {row.errors for row in rows(ledger, cases)} == {0} and len(rows(ledger, attempts)) == 2 * MAILS
    assert tick() == "Idle"


def test_a_process_killed_right_after_it_made_a_batch_does_not_make_it_twice(
    desk: Claude, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_tick("before:keep the batch's id:1")
    assert len(desk.state()["batches"]) == 1
    monkeypatch.setattr(batches, "ARRIVED_SECONDS", 0.0)
    assert tick() == "Idle", "whose batch that is can not be known yet"
    end(desk)
    assert tick() == "Completed"
    settled_and_paid_once(desk, ledger)


@SQLITE
def test_a_process_killed_right_before_it_makes_a_batch_takes_no_other_for_its_own(
    desk: Claude, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_tick("after:make a batch:1")
    others = [{"custom_id": f"other-{n}", "params": said(f"other {n}")} for n in range(MAILS)]
    talk(desk, lambda client: client.messages.batches.create(requests=others))
    end(desk)
    assert tick() == "Idle" and len(desk.state()["batches"]) == 1, "what was sent last may still be on its way"
    monkeypatch.setattr(batches, "ARRIVED_SECONDS", 0.0)
    tick()
    end(desk)
    assert tick() == "Completed" and states(ledger) == ["settled"] * MAILS
    ours = [one for one in desk.entries("batch item") if not one.custom_id.startswith("other")]
    assert len(ours) == MAILS and len(desk.state()["batches"]) == 2


@SQLITE
def test_a_process_killed_while_a_batch_is_worked_on_is_followed_by_one_that_waits_for_the_same(
    desk: Claude, ledger: Ledger
) -> None:
    killed_tick("after:keep the batch's id:1")
    assert tick() == "Idle"
    end(desk)
    killed_tick("after:book a batch:1")
    assert tick() == "Completed"
    settled_and_paid_once(desk, ledger)


@SQLITE
def test_a_batch_whose_making_was_not_confirmed_is_found_again(desk: Claude, ledger: Ledger) -> None:
    desk.fail("cut_after", on="batch")
    tick()
    end(desk)
    tick()
    settled_and_paid_once(desk, ledger)


@SQLITE
@pytest.mark.parametrize("status", ["429", "401"])
def test_questions_that_nobody_takes_now_stay_queued(desk: Claude, ledger: Ledger, status: str) -> None:
    desk.fail(status, on="batch")
    assert tick() == "Completed" and desk.state()["batches"] == {}
    tick()
    end(desk)
    tick()
    settled_and_paid_once(desk, ledger)


@SQLITE
@pytest.mark.parametrize("kind", ["expired", "500"])
def test_an_item_that_was_not_worked_on_is_asked_again_alone(desk: Claude, ledger: Ledger, kind: str) -> None:
    desk.fail(kind, on="item", match="mail 2")
    tick()
    end(desk)
    tick()
    assert states(ledger) == ["open", "settled", "settled"]
    end(desk)
    tick()
    settled_and_paid_once(desk, ledger, sent=2)
    assert sorted(row.state for row in rows(ledger, model_calls)) == ["answered"] * 3 + ["failed"]


@SQLITE
def test_an_item_that_can_not_succeed_says_what_to_do_and_the_others_go_on(desk: Claude, ledger: Ledger) -> None:
    desk.fail("413", on="item", match="mail 2", times=None)
    tick()
    end(desk)
    tick()
    (case,) = [row for row in rows(ledger, cases) if row.state != "settled"]
    assert case.errors == 1 and "shorten the knowledge" in case.reason


@SQLITE
def test_what_fails_in_every_batch_is_not_asked_for_ever(desk: Claude, ledger: Ledger) -> None:
    desk.fail("expired", on="item", match="mail 2", times=None)
    for _ in range(batches.TRIES):
        tick()
        end(desk)
    tick()
    (case,) = [row for row in rows(ledger, cases) if row.state != "settled"]
    assert case.errors == 1 and f"in {batches.TRIES} batch(es): it is expired" in case.reason


@SQLITE
@pytest.mark.parametrize(("times", "kinds"), [(1, ["acted"] * 3), (None, ["acted", "acted", "handed_over"])])
def test_an_unusable_answer_of_a_batch_gets_one_more_turn_and_then_goes_to_a_person(
    desk: Claude, ledger: Ledger, times: int | None, kinds: list[str]
) -> None:
    desk.fail("invalid_json", on="item", match="mail 2", times=times)
    for _ in range(2):
        tick()
        end(desk)
    tick()
    assert sorted(row.kind for row in rows(ledger, outcomes)) == kinds
    settled_and_paid_once(desk, ledger, sent=2)
    assert len([one for one in desk.entries("batch item") if one.billed]) == MAILS + 1


@SQLITE
def test_what_waits_for_a_batch_is_held_to_the_budget(desk: Claude, ledger: Ledger) -> None:
    settings: dict[str, object] = {"models": {"any": ["claude-fable-5-2"]}, "budget": {"usd_per_day": 0.06}}
    tick(**settings)
    assert states(ledger).count("parked") >= 1 and states(ledger).count("open") >= 1
    most = max(row.usd_open for row in rows(ledger, spending) if row.scope == "agent")
    assert 0 < most <= 60_000_000
    for _ in range(MAILS):
        end(desk)
        tick(**settings)
    settled_and_paid_once(desk, ledger, sent=len(desk.entries("batch")))
