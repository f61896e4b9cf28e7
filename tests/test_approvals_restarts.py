"""A page that waits for a person survives kills, an upgrade, a week, and the restart of everything."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from deployments.tickets import deliver, tickets
from tasks.ledger.approvals import what_waits, words_of
from tasks.ledger.database import Ledger, migrate
from tasks.ledger.tables import cases
from tests import forked
from tests.conftest import NO_POSTGRES, PROJECT, arrival, fill, wait_for
from tests.paging import FIRST, SECOND
from tests.servers import INITDB, Postgres
from tests.test_up import Up, up

__all__ = ["up"]

WEEK = 7 * 86_400
DOORWAYS = [
    "inside:intend:1",
    "after:intend:1",
    "before:dispatch:1",
    "before:send:1",
    "after:send:1",
    "before:settle:1",
]
ENV = {"DO_NOT_TRACK": "1", "PREFECT_LOGGING_LEVEL": "ERROR"}


class Watch:
    """An agent whose pages wait for a person, worked by processes; `restart` ends its database with a kill."""

    def __init__(self, url: str, box: Path, api: str, server: Postgres | None, text: str) -> None:
        self.url, self.box, self.server = url, box, server
        (box / "log").touch()
        self.env = {**os.environ, **ENV, "HOLDFAST_LEDGER": url, "HOLDFAST_HOME": str(box)}
        self.env |= {"PRACTICE_LOG": str(box / "log"), "PREFECT_API_URL": api, "PREFECT_HOME": str(box / "prefect")}
        given = {"effects": {"page": f"maildir:{box / 'pages'}"}, "approvals": {"page": {"hours": 24 * 30}}}
        with self.ledger() as ledger:
            migrate(ledger)
            fill(ledger, box, [arrival(1, body=text)], skills=["paging"], **given)

    @contextlib.contextmanager
    def ledger(self) -> Iterator[Ledger]:
        ledger = Ledger(self.url)
        try:
            yield ledger
        finally:
            ledger.close()

    def restart(self) -> None:
        if self.server is not None:
            self.server.kill()
            self.server.start()

    def work(self, doorway: str = "", **env: str) -> None:
        status = forked.run("tests.one_page", env=self.env | {"DOORWAY": doorway} | env).returncode
        assert status == (-signal.SIGKILL if doorway else 0)
        self.restart()

    def say(self, *words: str) -> str:
        with self.ledger() as ledger:
            (one,) = ledger.read_now("look", what_waits)
        done = forked.run("deployments", words[0], "1", one.word.digest[:12], *words[1:], env=self.env)
        assert done.returncode == 0, done.stdout
        return one.effect.body

    def state(self) -> str:
        with self.ledger() as ledger:
            return str(ledger.read_now("look", lambda c: c.execute(select(cases.c.state)).scalar_one()))

    def said(self) -> list[str]:
        with self.ledger() as ledger:
            return [row.what for row in ledger.read_now("look", lambda c: words_of(c, 1))]

    def pages(self) -> int:
        return len(list((self.box / "pages/new").glob("*")))

    def looked(self) -> int:
        return (self.box / "log").read_text().count("look")


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Postgres | None]]:
    """A database that nobody else uses, so that it can be killed."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger.db'}", None
        return
    if INITDB is None:
        pytest.skip(NO_POSTGRES)
    server = Postgres(durable=True)
    try:
        yield server.create("watch"), server
    finally:
        server.stop()


@pytest.mark.timeout(400)
def test_a_page_that_waits_survives_an_upgrade_a_restart_of_everything_and_a_week(
    place: tuple[str, Postgres | None], tmp_path: Path, prefect_server: str
) -> None:
    watch = Watch(place[0], tmp_path, prefect_server, place[1], "same")
    watch.work()
    watch.work(VERSION="2", WHEN=str(WEEK))
    assert (watch.state(), watch.pages(), watch.said()) == ("parked", 0, ["asked"])
    assert watch.say("permit") == FIRST
    watch.restart()
    watch.work("before:send:1", VERSION="2", WHEN=str(WEEK))
    watch.work(VERSION="2", WHEN=str(WEEK))
    watch.work(VERSION="2", WHEN=str(WEEK))
    assert (watch.state(), watch.pages(), watch.said()) == ("settled", 1, ["asked", "permitted"])
    assert watch.looked() == 1 + 1, "each version looks once, and once only"


@pytest.mark.timeout(400)
def test_an_upgrade_that_wants_other_words_waits_for_a_word_on_those_through_any_restart(
    place: tuple[str, Postgres | None], tmp_path: Path, prefect_server: str
) -> None:
    watch = Watch(place[0], tmp_path, prefect_server, place[1], "")
    watch.work()
    assert watch.say("permit") == FIRST
    watch.restart()
    watch.work("inside:intend:1", VERSION="2")
    watch.work(VERSION="2")
    assert (watch.state(), watch.pages()) == ("parked", 0)
    assert watch.say("permit") == SECOND
    watch.work(VERSION="2")
    (page,) = (tmp_path / "pages/new").glob("*")
    assert "standby" in page.read_text() and watch.said() == ["asked", "permitted", "asked", "permitted"]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("doorway", DOORWAYS)
def test_killed_at_any_doorway_of_a_page_that_waits_it_leaves_once(
    ledger_url: str, tmp_path: Path, prefect_server: str, doorway: str
) -> None:
    watch = Watch(ledger_url, tmp_path, prefect_server, None, "same")
    asks = "intend" in doorway
    if asks:
        watch.work(doorway)
    watch.work()
    watch.say("permit")
    if not asks:
        watch.work(doorway)
    watch.work()
    watch.work()
    assert (watch.state(), watch.pages(), watch.said(), watch.looked()) == ("settled", 1, ["asked", "permitted"], 1)


@pytest.mark.timeout(600)
def test_an_answer_that_waits_survives_the_kill_of_a_whole_house(up: Up) -> None:
    def command(*words: str) -> str:
        run = [sys.executable, "-m", "deployments", *words]
        env = up.env | {"PREFECT_API_URL": up.api}
        return subprocess.run(run, env=env, cwd=PROJECT, capture_output=True, text=True, timeout=90).stdout

    def sent() -> int:
        return len(list(up.folder.glob("sent/new/*")))

    up.act(approvals={"reply": {}})
    deliver(tickets(1)[:3], up.folder / "inbox")
    up.tick()
    wait_for(lambda: (up.folder / "ledger.db").exists() and "case" in command("waiting"), 180, "something that waits")
    digest, _, case = command("waiting").splitlines()[0].split()[:3]
    up.kill()
    up.start()
    up.act(approvals={"reply": {}})
    assert sent() == 0
    assert "subject:" in command("waiting", case)
    assert "It is permitted" in command("permit", case, digest)
    up.tick()
    wait_for(lambda: sent() == 1, 120, "the permitted answer")
    up.down()
    assert sent() == 1 and digest not in command("waiting")
