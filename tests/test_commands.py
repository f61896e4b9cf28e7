"""The commands, each in a process of its own: what they say is true, and bad input names the way out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select, update

from tasks.ledger.database import Ledger
from tasks.ledger.tables import cases, effects, journal, steps
from tests import forked
from tests.conftest import PROJECT, arrival, fill


class Desk:
    """One agent with two cases, and the commands on its ledger."""

    def __init__(self, ledger: Ledger, folder: Path, api: str, dry_run: bool = False) -> None:
        self.ledger, self.folder = ledger, folder
        self.env = {
            **os.environ,
            "HOLDFAST_LEDGER": ledger.url,
            "HOLDFAST_HOME": str(folder),
            "PRACTICE_LOG": str(folder / "log"),
            "PREFECT_API_URL": api,
            "PREFECT_LOGGING_LEVEL": "ERROR",
        }
        self.enter(dry_run)

    def enter(self, dry_run: bool) -> None:
        fill(self.ledger, self.folder, [arrival(1), arrival(2)], dry_run=dry_run)

    def run(self, *words: str, status: int = 0) -> str:
        done = forked.run("deployments", *words, env=self.env)
        said = done.stdout
        assert done.returncode == status, said
        assert "Traceback" not in said
        return said

    def work(self) -> None:
        forked.run("tests.one_run", "1", "2", env=self.env).check_returncode()

    def sent(self) -> int:
        return len(list((self.folder / "sent/new").glob("*"))) if (self.folder / "sent/new").exists() else 0

    def paid(self) -> int:
        return len((self.folder / "log").read_text().splitlines())

    def state(self, case: int = 1) -> str:
        return str(
            self.ledger.read_now("look", lambda c: c.execute(select(cases.c.state).where(cases.c.id == case)).scalar())
        )


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path, prefect_server: str) -> Desk:
    return Desk(ledger, tmp_path, prefect_server)


def test_the_story_of_a_case_leaves_nothing_out(desk: Desk) -> None:
    desk.work()
    told = desk.run("why", "1")
    in_order = ["recorded", "attempt 1 begun", "step count ran", "step draft ran", "reply", "confirmed", "settled"]
    places = [told.index(word) for word in in_order]
    assert places == sorted(places), told
    assert "There is no case 99" in desk.run("why", "99", status=1)


def test_a_redo_pays_for_its_steps_but_answers_nobody_twice(desk: Desk) -> None:
    desk.work()
    assert (desk.sent(), desk.paid()) == (2, 4)
    desk.run("redo", "1")
    assert desk.state() == "open"
    desk.work()
    assert (desk.sent(), desk.paid()) == (2, 6)
    desk.run("redo", "1", "--resend")
    desk.work()
    assert (desk.sent(), desk.paid()) == (3, 8)
    assert "worked again" in desk.run("why", "1")


def test_a_rehearsed_case_goes_live_without_paying_again(ledger: Ledger, tmp_path: Path, prefect_server: str) -> None:
    desk = Desk(ledger, tmp_path, prefect_server, dry_run=True)
    desk.work()
    assert (desk.sent(), desk.paid()) == (0, 4)
    desk.enter(dry_run=False)
    assert "2 rehearsed case(s)" in desk.run("redo", "--since", "2020-01-01")
    desk.work()
    assert (desk.sent(), desk.paid()) == (2, 4)
    assert "0 rehearsed case(s)" in desk.run("redo", "--since", "2020-01-01")


def test_a_quarantined_case_gets_another_chance_and_the_journal_says_from_whom(desk: Desk, ledger: Ledger) -> None:
    stop = update(cases).where(cases.c.id == 1).values(state="quarantined", reason="it died three times", deaths=3)
    ledger.write_now("quarantine", lambda c: c.execute(stop))
    desk.work()
    assert (desk.state(1), desk.state(2)) == ("quarantined", "settled")
    assert "it died three times" in desk.run("doctor", status=1)
    desk.run("release", "1")
    desk.work()
    assert desk.state(1) == "settled"
    who = ledger.read_now("look", lambda c: c.execute(select(journal.c.who, journal.c.what)).one())
    assert "at the command line" in who.who and who.what == "released"
    assert "neither quarantined nor parked" in desk.run("release", "1", status=1)


def test_the_switch_stops_effects_at_once_and_brings_back_what_waited(desk: Desk) -> None:
    desk.run("switch", "desk", "off")
    desk.work()
    assert (desk.sent(), desk.state()) == (0, "parked")
    desk.run("switch", "desk", "on")
    desk.work()
    assert (desk.sent(), desk.paid(), desk.state()) == (2, 4, "settled")
    assert "No agent called" in desk.run("switch", "nobody", "off", status=1)
    assert "`on` or `off`" in desk.run("switch", "desk", "maybe", status=1)


def test_a_case_that_is_not_in_doubt_can_not_be_resolved(desk: Desk, ledger: Ledger) -> None:
    desk.work()
    assert "no effect in doubt" in desk.run("resolve", "1", "--sent", status=1)
    kinds = ledger.read_now("look", lambda c: set(c.execute(select(effects.c.state)).scalars()))
    assert kinds == {"confirmed"}


def test_doctor_names_the_way_out_of_what_it_finds(desk: Desk) -> None:
    said = desk.run("doctor", status=1)
    assert "no work pool" in said and "prefect work-pool create" in said
    desk.env["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    assert "does not answer" in desk.run("doctor", status=1)


def test_doctor_says_which_source_can_not_be_read_and_why(desk: Desk) -> None:
    fill(desk.ledger, desk.folder, [], name="watch", source="alertmanager://127.0.0.1:9")
    fill(desk.ledger, desk.folder, [], name="mail", source="imap://127.0.0.1:9/INBOX")
    said = desk.run("doctor", status=1)
    assert "agent watch can not read alertmanager://127.0.0.1:9" in said and "can not be reached" in said
    assert "agent mail can not read imap://127.0.0.1:9/INBOX" in said and "HOLDFAST_IMAP_USER" in said


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://nobody@127.0.0.1:9/none", "The ledger"),
        ("oracle://x", "Use sqlite"),
        ("not a url", "not a database URL"),
        ("sqlite:////proc/nowhere/ledger.db", "can not be made"),
    ],
)
@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_ledger_that_can_not_be_reached_is_named_without_a_traceback(desk: Desk, url: str, says: str) -> None:
    desk.env["HOLDFAST_LEDGER"] = url
    assert says in desk.run("why", "1", status=1)


def test_commands_do_not_import_prefect_which_reads_its_settings_then() -> None:
    code = "import sys, deployments.__main__, deployments.supervisor; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0, "`up` would start a second server"


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_mistyped_command_touches_nothing(desk: Desk, ledger: Ledger) -> None:
    desk.run("redo", status=1)
    desk.run("redo", "1", "--since", "2020-01-01", status=1)
    desk.run("redo", "99", status=1)
    assert "Nothing is up" in desk.run("down", status=1)
    assert ledger.read_now("look", lambda c: c.execute(select(journal)).all()) == []
    assert ledger.read_now("look", lambda c: c.execute(select(steps)).all()) == []
