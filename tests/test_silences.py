"""A silence is made once, for a while, and never against a person's word."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select

from flows.loop import agent_loop
from tasks.ledger.tables import effects, verdicts
from tasks.records import Agent, Signal
from tests import forked
from tests.alerting import Alerting, alerting_in
from tests.conftest import wait_for
from tests.incidents import RULES, RUN, Desk, cited, environment, episode, remember
from tests.triaging import SQLITE, desk, sink
from tests.valve import valve_before, wait_until_posted

__all__ = ["desk", "sink"]

# One for each test that may silence it: Alertmanager remembers what became quiet, and what a person ended.
SERVICES = ("reports", "pictures", "exports", "imports", "thumbs", "films")
KILLED = tuple(f"{side}-{database}" for side in ("before", "after") for database in ("sqlite", "postgresql"))


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alerting]:
    folder = tmp_path_factory.mktemp("rig")
    remember(folder, (*SERVICES, *KILLED))
    with alerting_in(folder, RULES) as found:
        yield found


def quiet(rig: Alerting, service: str) -> list[dict[str, Any]]:
    """Active silences of a service."""
    active = [one for one in rig.silences() if one["status"]["state"] == "active"]
    return [one for one in active if any(m["value"] == service for m in one["matchers"])]


@SQLITE
def test_what_came_and_went_by_itself_is_silenced_alone_and_for_a_while(desk: Desk, rig: Alerting) -> None:
    rig.push(*(f'cpu_busy_ratio{{service="{one}"}} 0.97' for one in ("reports", "films")))
    rig.firing("BusyCpu", 2)
    desk.enter(episode("BusyCpu", "warning", service="reports"))
    (outcome,) = desk.work()
    assert (outcome.kind, outcome.answer) == ("acted", "silence"), outcome
    assert "4 times before it ended" in cited(outcome)["prometheus/earlier"]
    states = {one["labels"]["service"]: one["status"]["state"] for one in rig.firing("BusyCpu", 2)}
    wait_for(
        lambda: (
            {one["labels"]["service"]: one["status"]["state"] for one in rig.firing("BusyCpu", 2)}
            == {"reports": "suppressed", "films": "active"}
        ),
        60,
        f"the silence of one: {states}",
    )
    assert not desk.pages() and not desk.notes()


@SQLITE  # one Alertmanager remembers what the other database's episode came to
def test_what_a_person_un_silenced_is_not_silenced_again(desk: Desk, rig: Alerting) -> None:
    rig.push('cpu_busy_ratio{service="pictures"} 0.97')
    rig.firing("BusyCpu", 1)
    first = episode("BusyCpu", "warning", service="pictures")
    desk.enter(first)
    desk.work()
    (mine,) = quiet(rig, "pictures")
    rig.expire(mine["id"])
    desk.follow(episode("BusyCpu", "warning", number=2, service="pictures"))
    outcome = desk.work(2)[-1]
    assert outcome.answer != "silence" and "spoke against" in cited(outcome)["ledger/history"]
    assert not quiet(rig, "pictures")
    # The same from the ledger alone, when Alertmanager has long forgotten it.
    said = Signal(key=first.key, what="un-silenced", right=False, at=first.arrived)
    desk.follow(said, episode("BusyCpu", "warning", number=3, service="pictures"))
    assert desk.work(3)[-1].answer != "silence"


@SQLITE  # as above
def test_a_kill_between_a_silence_and_its_answer_makes_no_second(desk: Desk, rig: Alerting) -> None:
    rig.push('cpu_busy_ratio{service="exports"} 0.97')
    rig.firing("BusyCpu", 1)
    with valve_before(rig.alertmanager.url) as valve:
        desk.effects["silence"] = f"alertmanager://{valve.address}"
        desk.enter(episode("BusyCpu", "warning", service="exports"))
        valve.closed = True
        run = forked.start("1", code=RUN, env=environment(desk.ledger.url, desk.prefect, desk.home))
        wait_until_posted(valve)
        run.kill()
        run.wait()
        valve.closed = False
        (outcome,) = desk.work()
    assert outcome.answer == "silence"
    assert len(quiet(rig, "exports")) == 1
    assert desk.look(effects.c.state) == ["confirmed"]


@SQLITE
def test_a_refused_silence_calls_a_person_and_stays_refused(desk: Desk, rig: Alerting) -> None:
    rig.push('cpu_busy_ratio{service="imports"} 0.97')
    rig.firing("BusyCpu", 1)
    desk.effects["silence"] = desk.sink.url("status/403")
    desk.enter(episode("BusyCpu", "warning", service="imports"))
    (outcome,) = desk.work()
    assert (outcome.kind, outcome.answer) == ("handed_over", "page") and "was refused" in outcome.note
    assert len(desk.pages()) == 1


@pytest.mark.parametrize("doorway", ["before:send:1", "after:send:1"])
def test_a_triage_killed_around_its_silence_makes_one_and_calls_nobody(
    desk: Desk, rig: Alerting, doorway: str, ledger_url: str
) -> None:
    service = f"{doorway.partition(':')[0]}-{ledger_url.partition(':')[0].partition('+')[0]}"
    rig.push(f'cpu_busy_ratio{{service="{service}"}} 0.97')
    rig.firing("BusyCpu", 1)
    desk.enter(episode("BusyCpu", "warning", service=service))
    env = environment(desk.ledger.url, desk.prefect, desk.home, DOORWAY=doorway)
    assert forked.start("1", code=RUN, env=env).wait(90) == -signal.SIGKILL
    assert len(quiet(rig, service)) == ("after" in doorway)
    (outcome,) = desk.work()
    assert outcome.answer == "silence" and len(quiet(rig, service)) == 1
    assert desk.look(effects.c.state) == ["confirmed"] and not desk.pages()


@SQLITE
def test_an_alert_that_gets_worse_under_its_silence_calls_a_person_once_that_is_over_and_counts_against_it(
    desk: Desk, rig: Alerting, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SHORTEST", "LONGEST"):
        monkeypatch.setattr(f"skills.triage_incident.weights.{name}", 1)
    rig.push('cpu_busy_ratio{service="thumbs"} 0.97')
    wait_for(lambda: [one["labels"]["service"] for one in rig.firing("BusyCpu")] == ["thumbs"], 60, "its alert alone")
    given = {"name": "incidents", "source": rig.source, "skills": ["triage_incident"], "effects": desk.effects}
    agent = Agent.model_validate(given)

    def tick() -> list[str]:
        asyncio.run(agent_loop(agent, dry_run=False))
        return [one.answer for one in desk.concluded()]

    assert tick() == ["silence"] and tick() == ["silence"]
    rig.push('cpu_busy_ratio{service="thumbs"} 1.9')
    wait_for(lambda: not quiet(rig, "thumbs"), 90, "the end of the silence")
    assert tick() == ["silence", "page"] and tick() == ["silence", "page"]
    assert len(desk.pages()) == 1 and not quiet(rig, "thumbs")
    assert any("1 needed a person (cases 1)" in one.text for one in desk.concluded()[-1].evidence)
    said = select(verdicts.c.outcome, verdicts.c.right)
    assert desk.ledger.read_now("look", lambda c: c.execute(said).all()) == [(1, False)]
