"""A case that kills its process, an agent that keeps dying and an agent that drains: each blames nobody else."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from sqlalchemy import func, select, update

from tasks.ledger.agents import drain_all, resume, take_agent
from tasks.ledger.database import Ledger
from tasks.ledger.holders import Observer, register
from tasks.ledger.tables import agents, attempts, cases, steps
from tasks.process import this_process
from tests import forked
from tests.conftest import arrival, fill, wait_for

Start = Callable[..., forked.Forked]


@pytest.fixture
def start(ledger: Ledger, tmp_path: Path, prefect_server: str) -> Start:
    (tmp_path / "log").touch()
    env = {
        **os.environ,
        "HOLDFAST_LEDGER": ledger.url,
        "PRACTICE_LOG": str(tmp_path / "log"),
        "PREFECT_API_URL": prefect_server,
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }

    def run(*ids: int, output: IO[str] | None = None, **more: str) -> forked.Forked:
        with (tmp_path / "errors").open("a") as errors:
            return forked.start("tests.one_run", *map(str, ids), env=env | more, output=output or errors)

    return run


def states(ledger: Ledger) -> dict[str, int]:
    found = select(cases.c.state, func.count()).group_by(cases.c.state)
    return {row[0]: row[1] for row in ledger.read_now("look", lambda c: c.execute(found).all())}


def test_a_case_that_kills_its_process_is_quarantined_after_three_deaths_and_its_neighbours_are_answered(
    ledger: Ledger, tmp_path: Path, start: Start
) -> None:
    poison = 20
    mails = [arrival(number, body="poison" if number == poison else "one two three") for number in range(1, 48)]
    fill(ledger, tmp_path, mails)
    deaths = 0
    while (status := start(*range(1, 48)).wait(90)) == -signal.SIGKILL:
        deaths += 1
        assert deaths < 5, "it kills for ever"
    assert (status, deaths) == (0, 3), (tmp_path / "errors").read_text()
    assert states(ledger) == {"settled": 46, "quarantined": 1}
    assert len(list((tmp_path / "sent/new").iterdir())) == 46
    blamed = ledger.read_now("look", lambda c: c.execute(select(cases).where(cases.c.state == "quarantined")).one())
    assert blamed.id == poison and "3 attempts died at the same point" in blamed.reason


def test_an_agent_whose_ticks_die_three_times_for_nothing_is_paused_and_says_why(
    ledger: Ledger, tmp_path: Path
) -> None:
    agent = fill(ledger, tmp_path, [])
    gone = this_process()._replace(pid=2**22 - 7, started="1")
    for death in range(3):
        holder = uuid.uuid4().hex
        ledger.write_now("register", lambda c, holder=holder: register(c, holder, gone, ""))  # type: ignore[misc]
        refused = ledger.write_now("take", lambda c, holder=holder: take_agent(c, agent, False, holder))  # type: ignore[misc]
        assert refused == "", death
        ledger.write_now("look", Observer().look(0.0))
    refused = ledger.write_now("take", lambda c: take_agent(c, agent, False, "h" * 36))
    assert "paused: 3 ticks in a row died without settling a case" in refused and "resume desk" in refused
    ledger.write_now("resume", lambda c: resume(c, "desk", "test"))
    assert ledger.write_now("take", lambda c: take_agent(c, agent, False, "h" * 36)) == ""


def test_a_draining_agent_hands_its_cases_back_between_two_steps_and_blames_none(
    ledger: Ledger, tmp_path: Path, start: Start
) -> None:
    fill(ledger, tmp_path, [arrival(number, body="wait for the word") for number in (1, 2)])
    run = start(1, 2)
    log = tmp_path / "log"
    wait_for(lambda: log.read_text().count("count") == 2, 60, "the first steps")
    ledger.write_now("drain", lambda c: drain_all(c, True))

    def beaten() -> bool:
        (tmp_path / "word").touch()
        return run.poll() is not None

    # The first steps end when the word is there, which is after a beat has brought the drain.
    wait_for(lambda: "draining" in log.read_text(), 60, "the beat")
    wait_for(beaten, 60, "the end of the run")
    assert run.returncode == 0, (tmp_path / "errors").read_text()
    assert states(ledger) == {"open": 2} and "draft" not in log.read_text()
    rows = ledger.read_now("look", lambda c: c.execute(select(attempts)).all())
    assert {row.how for row in rows} == {"returned"}
    kept = ledger.read_now("look", lambda c: c.execute(select(func.count()).select_from(steps)).scalar())
    assert kept == 2
    clean = select(func.sum(cases.c.deaths), func.sum(cases.c.errors), func.count()).where(~cases.c.suspect)
    assert tuple(ledger.read_now("look", lambda c: c.execute(clean).one())) == (0, 0, 2)
    start(1, 2).wait(60)
    assert states(ledger) == {"open": 2}, "a case was begun although its agent drains"
    ledger.write_now("go", lambda c: c.execute(update(agents).values(draining=False)))
    start(1, 2).wait(60)
    assert states(ledger) == {"settled": 2}
    assert log.read_text().count("count") == 2, "a finished step ran again"


def test_a_process_that_was_told_to_end_loses_nothing_and_its_cases_go_on(
    ledger: Ledger, tmp_path: Path, start: Start
) -> None:
    fill(ledger, tmp_path, [arrival(number, body="wait for the word") for number in (1, 2)])
    run = start(1, 2)
    log = tmp_path / "log"
    wait_for(lambda: log.read_text().count("count") == 2, 60, "the first steps")
    run.send_signal(signal.SIGTERM)
    run.wait(60)
    (tmp_path / "word").touch()
    assert start(1, 2).wait(60) == 0
    assert states(ledger) == {"settled": 2} and len(list((tmp_path / "sent/new").iterdir())) == 2


def test_a_run_whose_worker_was_killed_does_not_end_with_the_next_line_that_it_prints(
    ledger: Ledger, tmp_path: Path, start: Start
) -> None:
    fill(ledger, tmp_path, [arrival(number, body="wait for the word") for number in (1, 2)])
    read, write = os.pipe()
    with os.fdopen(read) as worker, os.fdopen(write, "w") as printed:
        run = start(1, 2, PREFECT_LOGGING_LEVEL="INFO", output=printed)
        wait_for(lambda: (tmp_path / "log").read_text().count("count") == 2, 60, "the first steps")
        worker.close()
    (tmp_path / "word").touch()
    assert run.wait(60) == 0
    rows = ledger.read_now("look", lambda c: c.execute(select(attempts)).all())
    assert [row.how for row in rows] == ["settled", "settled"], "a batch ended because nobody reads what it prints"
