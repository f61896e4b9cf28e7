"""Whole ticks on a real tracker, killed between any two requests: each ticket has one answer, and none is lost."""

from __future__ import annotations

import email
import json
import os
import signal
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

import pytest
from sqlalchemy import func, select

from deployments.tickets import tickets
from tasks.ledger.database import Ledger, migrate
from tasks.ledger.tables import cases, effects
from tests import forked
from tests.between import Between, between
from tests.conftest import wait_for
from tests.tracker import AGENT, Tracker, tracker

pytestmark = pytest.mark.timeout(600)
ORDER = "Where is my order? No tracking yet."


@pytest.fixture(scope="module")
def desk() -> Iterator[Tracker]:
    with tracker() as one:
        one.do(by="bob", address="bob@fennmoor.example")
        yield one


@pytest.fixture
def passing(desk: Tracker) -> Iterator[Between]:
    with between(desk.root) as one:
        yield one


def dead(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


class House:
    """An agent that works the tickets behind a URL, in processes of its own."""

    def __init__(self, desk: Tracker, passing: Between, ledger: Ledger, home: Path, api: str) -> None:
        self.ledger, self.passing, self.errors = ledger, passing, home / "errors"
        agent = {"source": passing.url, "effects": {"reply": passing.url, "hand_over": f"{passing.url}?assign=bob"}}
        self.env = os.environ | desk.account
        self.env |= {
            "AGENT": json.dumps(agent),
            "HOLDFAST_LEDGER": ledger.url,
            "HOLDFAST_HOME": str(home),
            "PRACTICE_LOG": str(home / "log"),
            "PREFECT_API_URL": api,
            "PREFECT_HOME": str(home / "prefect"),
            "PREFECT_LOGGING_LEVEL": "WARNING",
        }

    def start(self) -> forked.Forked:
        with self.errors.open("a") as errors:
            return forked.start("tests.one_tick", env=self.env, output=errors)

    def finish(self) -> None:
        assert self.start().wait(150) == 0, self.errors.read_text()

    def killed(self, moment: Callable[[str, str], bool], side: str) -> None:
        """One tick that dies at the first request for which `moment` is true, `side` the server has it."""
        victim: list[forked.Forked] = []

        def watch(method: str, path: str) -> bool:
            if not victim or dead(victim[0].pid) or not moment(method, path):
                return False
            os.kill(victim[0].pid, signal.SIGKILL)
            wait_for(lambda: dead(victim[0].pid), 30, "the death")
            return True

        setattr(self.passing, side, watch)
        victim.append(self.start())
        assert victim[0].wait(150) == -signal.SIGKILL, self.errors.read_text()
        setattr(self.passing, side, lambda method, path: None)

    def states(self) -> dict[str, int]:
        found = select(cases.c.state, func.count()).group_by(cases.c.state)
        return {row[0]: row[1] for row in self.ledger.read_now("look", lambda c: c.execute(found).all())}


@pytest.fixture
def house(desk: Tracker, passing: Between, ledger: Ledger, tmp_path: Path, prefect_server: str) -> House:
    return House(desk, passing, ledger, tmp_path, prefect_server)


def answers(desk: Tracker, issue: str) -> int:
    return sum(one["author"]["username"] == AGENT for one in desk.ticket(issue).messages)


def makes(method: str, path: str) -> bool:
    return method == "POST" and not path.endswith("@poe")


def links(method: str, path: str) -> bool:
    return method == "PATCH"


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("moment", [makes, links])
def test_a_kill_around_this_request_makes_no_second_answer_and_loses_none(
    desk: Tracker, house: House, moment: Callable[[str, str], bool], side: str
) -> None:
    people = [f"{moment.__name__}-{side}-{house.ledger.url[:6]}-{number}@example.com" for number in range(2)]
    people = [one.replace(":", "") for one in people]
    issues = [one for one, _ in desk.do_all([{"by": who, "title": "Order", "text": ORDER} for who in people])]
    orphans = len(desk.made())
    house.killed(moment, side)
    house.finish()
    assert [answers(desk, one) for one in issues] == [1, 1]
    assert [desk.mails()[who] for who in people] == [1, 1]
    assert len(desk.made()) - orphans == 2, "a message was made again instead of linked"
    assert house.states() == {"settled": 2}
    house.finish()
    assert house.states() == {"settled": 2}, "an answered ticket became a case again"


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_two_houses_that_do_not_know_of_each_other_answer_a_ticket_once(
    desk: Tracker, house: House, tmp_path: Path
) -> None:
    who = "two-houses@example.com"
    issue, _ = desk.do(by=who, title="Order", text=ORDER)
    other = Ledger(f"sqlite:///{tmp_path / 'other.db'}")
    migrate(other)
    both = [house.start()]
    house.env = house.env | {"HOLDFAST_LEDGER": other.url}
    both.append(house.start())
    assert [one.wait(150) for one in both] == [0, 0], house.errors.read_text()
    other.close()
    assert answers(desk, issue) == 1 and desk.mails()[who] == 1


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_47_tickets_with_kills_in_the_middle_have_one_word_of_ours_each(desk: Tracker, house: House) -> None:
    deeds = []
    for number, raw in enumerate(tickets(7)):
        mail = email.message_from_bytes(raw, policy=default)
        assert isinstance(mail, EmailMessage)
        body = mail.get_body(("plain", "html"))
        text = str(body.get_content()) if body is not None else ""
        deeds.append({"by": f"t{number}@example.com", "title": str(mail["Subject"])[:200] or "-", "text": text or " "})
    issues = [one for one, _ in desk.do_all(deeds)]
    seen = iter(range(1000))
    for limit, side in ((8, "after"), (20, "before")):
        house.killed(lambda method, path, limit=limit: method == "PATCH" and next(seen) >= limit, side)
    house.finish()
    wait_for(lambda: house.states() == {"settled": 47} or house.finish(), 120, "the end of all cases")
    assert [answers(desk, one) for one in issues] == [1] * 47
    found = house.ledger.read_now("look", lambda c: set(c.execute(select(effects.c.state)).scalars()))
    assert found == {"confirmed"}
    told = desk.mails()
    assert max(told[f"t{number}@example.com"] for number in range(47)) == 1
    assert sum(told[f"t{number}@example.com"] for number in range(47)) + told["bob@fennmoor.example"] == 47
