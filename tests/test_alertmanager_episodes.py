"""One case for each episode of an alert, whatever restarts, flaps or is silenced, and none for what goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tasks.episodes import Episode, to_forget
from tasks.errors import NotSent
from tasks.ledger.arrivals import hear
from tasks.ledger.database import Ledger
from tasks.ledger.tables import signals, verdicts
from tasks.records import Arrival, Note, Signal, Unreadable
from tests.alerted import MINUTE, Desk, clock, rig
from tests.alerting import Alerting
from tests.conftest import fill, wait_for
from tests.test_verdicts import conclude

__all__ = ["clock", "rig"]


@pytest.fixture
def desk(ledger: Ledger, rig: Alerting, tmp_path: Path) -> Iterator[Desk]:
    fill(ledger, tmp_path, [])
    yield Desk(ledger, rig.source)
    for job in ("app", "other"):
        rig.push(job=job)
    for one in rig.silences():
        if one["status"]["state"] != "expired":
            rig.expire(one["id"])
    wait_for(lambda: not rig.alerts(), 60, "quiet")


# What goes on is one case


def test_an_alert_that_fires_is_one_case_with_all_that_a_skill_needs(rig: Alerting, desk: Desk) -> None:
    rig.push('queue_depth{queue="mail"} 250')
    (shown,) = rig.firing("QueueBacklog")
    (one,) = desk.new()
    assert one.thread == shown["fingerprint"] and one.key == f"{one.thread}@{one.attributes['starts_at']}"
    assert one.subject == "QueueBacklog: severity=page, job=app, queue=mail"
    assert one.text == "mail holds 250\nIt is worked slower than it fills." and one.sender == ""
    assert one.attributes["labels"] == shown["labels"] and one.attributes["annotations"] == shown["annotations"]
    assert one.attributes["receivers"] == ["hook"] and "g0.expr=queue_depth" in str(one.attributes["generator_url"])
    assert (one.attributes["flaps"], one.attributes["cut"]) == (0, False)
    assert desk.tick() == [], "what goes on is noted at every poll"


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_restart_of_prometheus_makes_no_second_case(rig: Alerting, desk: Desk) -> None:
    rig.push('queue_depth{queue="mail"} 250')
    (before,) = rig.firing("QueueBacklog")
    assert len(desk.new()) == 1
    rig.prometheus.kill()
    found: list[Any] = []

    def gone() -> bool:
        found.extend(desk.tick())
        return not rig.alerts("alertname=QueueBacklog")

    wait_for(gone, 90, "Alertmanager to give the alert up")
    found += desk.tick()
    rig.prometheus.start()

    def begun_anew() -> bool:
        found.extend(desk.tick())
        return any(one["startsAt"] != before["startsAt"] for one in rig.alerts("alertname=QueueBacklog"))

    wait_for(begun_anew, 90, "a new start of the old alert")
    found += desk.tick()
    assert {type(one) for one in found} == {Note, Unreadable} and len(desk.cases()) == 1


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_restart_of_alertmanager_makes_no_second_case(rig: Alerting, desk: Desk) -> None:
    rig.push('queue_depth{queue="mail"} 250')
    rig.firing("QueueBacklog")
    assert len(desk.new()) == 1
    rig.alertmanager.kill()
    with pytest.raises(NotSent, match="can not be reached"):
        desk.tick()
    with rig.prometheus.frozen():  # or it may have sent again before anybody looks
        rig.alertmanager.start()
        assert rig.alerts() == [], "it forgot nothing, so nothing was tested"
    found: list[Any] = []

    def sent_again() -> bool:
        found.extend(desk.tick())
        return bool(rig.alerts("alertname=QueueBacklog"))

    wait_for(sent_again, 90, "Prometheus to send again")
    found += desk.tick()
    assert not [one for one in found if not isinstance(one, Note)] and len(desk.cases()) == 1


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_nothing_ends_while_prometheus_can_not_be_asked(rig: Alerting, ledger: Ledger, desk: Desk) -> None:
    other = Desk(ledger, rig.source.replace("prometheus=http://127.0.0.1:", "prometheus=http://localhost:"))
    rig.push('queue_depth{queue="mail"} 250')
    rig.firing("QueueBacklog")
    assert len(other.new()) == 1
    rig.push()
    rig.wait_quiet("QueueBacklog")
    rig.prometheus.kill()
    (why,) = (one for one in other.tick() if isinstance(one, Unreadable))
    assert "Nothing ends" in why.why
    rig.prometheus.start()
    assert other.until_told("resolved")[1] == other.cases()[0]


# What is over and begins again


@pytest.mark.parametrize(
    ("kind", "answer", "right"),
    [("acted", "note", False), ("acted", "page", None), ("handed_over", "page", None), ("", "", None)],
)
def test_an_alert_that_ends_and_fires_again_is_a_new_case_and_speaks_about_the_old(
    rig: Alerting, desk: Desk, kind: str, answer: str, right: bool | None
) -> None:
    rig.push("error_rate 0.5")
    rig.firing("HighErrorRate")
    (first,) = desk.new()
    if kind:
        conclude(desk.ledger, 1, answer, kind)
    rig.push()
    rig.wait_quiet("HighErrorRate")
    assert desk.until_told("resolved") == ("resolved", first.key, None)
    assert desk.tick() == []
    rig.push("error_rate 0.5")
    rig.firing("HighErrorRate")
    found = desk.tick()
    assert [(one.what, one.key, one.right) for one in found if isinstance(one, Signal)] == [
        ("came back", first.key, right)
    ]
    (second,) = (one for one in found if isinstance(one, Arrival))
    assert second.thread == first.thread and second.key != first.key
    heard = desk.ledger.write_now("hear", lambda c: hear(c, desk.source))
    assert heard == (right is False)
    if heard:
        row = desk.ledger.read_now("look", lambda c: c.execute(select(verdicts)).one())
        assert (row.auditor, row.right, row.source) == ("came back", False, "signal")


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_flapping_alert_joins_its_last_case_until_it_stays(
    rig: Alerting, desk: Desk, clock: Callable[[float], None]
) -> None:
    made = []
    for _ in range(4):
        rig.push('down{what="Flapper"} 1')
        rig.firing("Flapper")
        made.append(len(desk.new()))
        rig.push()
        rig.wait_quiet("Flapper")
        wait_for(lambda: not desk.tick() and not rig.alerts(), 60, "its end")
        wait_for(lambda: all("over" in one for one in desk.known.recall("alert/").values()), 60, "its end")  # type: ignore[operator]
    assert made == [1, 1, 0, 0]
    rig.push('down{what="Flapper"} 1')
    rig.firing("Flapper")
    assert desk.new() == []
    clock(11 * MINUTE)
    (stays,) = desk.new()
    assert stays.attributes["flaps"] == 3 and len(desk.cases()) == 3
    assert desk.new() == []


# What people and rules keep quiet


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_what_a_person_silenced_is_left_alone_for_as_long(rig: Alerting, desk: Desk) -> None:
    silence = rig.silence(alertname="Fridge")
    rig.push('down{what="Fridge"} 1')
    rig.firing("Fridge")
    assert desk.tick() == []
    rig.expire(silence)
    (one,) = desk.new()
    assert one.attributes["labels"]["alertname"] == "Fridge"  # type: ignore[index,call-overload]
    rig.expire(rig.silence(alertname="Fridge"))
    assert desk.tick() == [], "it is the same episode, and the silence was nobody's of ours"


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_what_is_inhibited_is_no_case_until_it_outlives_that(rig: Alerting, desk: Desk) -> None:
    rig.push('down{what="SwitchDown"} 1', job="other")
    rig.firing("SwitchDown")
    rig.push('down{what="LinkDown"} 1')
    (link,) = rig.firing("LinkDown")
    assert link["status"]["inhibitedBy"]
    assert [one.subject.partition(":")[0] for one in desk.new()] == ["SwitchDown"]
    rig.push(job="other")
    rig.wait_quiet("SwitchDown")
    assert [one.subject.partition(":")[0] for one in desk.new()] == ["LinkDown"]


def fridge_down(rig: Alerting, desk: Desk) -> tuple[dict[str, Any], Arrival]:
    """An alert that fires, and its case."""
    rig.push('down{what="Fridge"} 1')
    (shown,) = rig.firing("Fridge")
    (one,) = desk.new()
    return shown, one


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_silence_of_ours_speaks_against_itself_only_if_a_person_ends_it_while_the_alert_fires(
    rig: Alerting, desk: Desk
) -> None:
    shown, one = fridge_down(rig, desk)
    conclude(desk.ledger, 1, "silence")
    rig.expire(rig.silence(by="ann", **shown["labels"]))
    assert desk.told() == []
    rig.expire(rig.silence(by="holdfast", **shown["labels"]))
    assert desk.told() == [("un-silenced", one.key, False)]
    assert desk.told() == []
    assert desk.ledger.write_now("hear", lambda c: hear(c, desk.source)) == 1
    tidied = rig.silence(by="holdfast", **shown["labels"])
    rig.push()
    rig.wait_quiet("Fridge")
    desk.until_told("resolved")
    rig.expire(tidied)
    rig.push('down{what="Fridge"} 1')
    rig.firing("Fridge")
    assert [what for what, _, _ in desk.told()] == ["came back"]


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_an_alert_that_outlasts_our_silence_is_looked_into_once_more_and_speaks_against_it(
    rig: Alerting, desk: Desk
) -> None:
    shown, one = fridge_down(rig, desk)
    theirs = rig.silence(by="ann", minutes=0.02, **shown["labels"])
    wait_for(lambda: state_of(rig, theirs) == "expired", 60, "the end of a person's silence")
    assert desk.new() == []
    runs_out = rig.silence(by="holdfast", minutes=0.02, **shown["labels"])
    other = rig.silence(by="holdfast", **(shown["labels"] | {"what": "another"}))
    wait_for(lambda: state_of(rig, runs_out) == "expired", 60, "its end")
    desk.tick(most=1)  # killed between the signal and the case
    (again,) = desk.new()
    assert again.thread == one.thread and again.key == f"{one.key}/{runs_out}"
    assert desk.tick() == [] and desk.cases() == [one.key, again.key]
    said = select(signals.c.key, signals.c.what, signals.c.right)
    assert desk.ledger.read_now("look", lambda c: c.execute(said).all()) == [(one.key, "outlasted", False)]
    rig.expire(other)
    rig.push()
    rig.wait_quiet("Fridge")
    assert desk.until_told("resolved") == ("resolved", again.key, None)


def state_of(rig: Alerting, silence: str) -> str:
    return next(str(one["status"]["state"]) for one in rig.silences() if one["id"] == silence)


def test_what_is_over_is_remembered_for_hours_and_by_the_thousand_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.episodes.MOST", 2)
    one = Episode(name="n", labels={}, server="", key="k", cased=1.0, fires=(1.0,))
    over = {str(at): one.model_copy(update={"over": float(at)}) for at in (9_000, 9_001, 9_002, 1_000)}
    assert to_forget({**over, "open": one}, 9_003.0) == {"9000", "1000"}
    assert to_forget({"1000": over["1000"]}, 9_003.0) == {"1000"}
    assert to_forget({"1000": over["1000"]}, 8_000.0) == set()
