"""A storm of alerts is a few cases in bounded memory, wherever a poll is killed and with nobody to ask."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import tasks.alerts
from tasks.alerts import Alert
from tasks.ledger.database import Ledger
from tasks.sources import alertmanager
from tests.alerted import MINUTE, Desk, clock, rig
from tests.alerting import Alerting
from tests.conftest import PROJECT, fill, wait_for

__all__ = ["clock", "rig"]
AT = datetime(2026, 1, 1, tzinfo=UTC)


# All of it given to Alertmanager as a Prometheus would


def alerts(number: int, name: str = "Storm", since: datetime = AT, **labels: str) -> list[dict[str, Any]]:
    ends = datetime.now(UTC) + timedelta(minutes=10)
    return [
        {
            "labels": {"alertname": name, "instance": f"host-{n}", "severity": "page", **labels},
            "annotations": {"summary": f"{name} at host-{n}"},
            "startsAt": (since + timedelta(seconds=n)).isoformat(),
            "endsAt": ends.isoformat(),
            "generatorURL": "http://prometheus.example:9090/graph?g0.expr=up",
        }
        for n in range(number)
    ]


@pytest.fixture
def only(rig: Alerting, ledger: Ledger, tmp_path: Path) -> Iterator[Desk]:
    """Of the same Alertmanager, with nobody to ask."""
    fill(ledger, tmp_path, [])
    yield Desk(ledger, rig.source.partition("?")[0])
    end(rig, rig.alerts())


def end(rig: Alerting, some: list[dict[str, Any]]) -> None:
    over = datetime.now(UTC).isoformat()
    keep = ("labels", "annotations", "startsAt", "generatorURL")
    if some:
        rig.send(*({name: one[name] for name in keep} | {"endsAt": over} for one in some))
    over_ones = {json.dumps(one["labels"], sort_keys=True) for one in some}
    wait_for(lambda: not over_ones & {json.dumps(one["labels"], sort_keys=True) for one in rig.alerts()}, 60, "the end")


def test_a_storm_is_one_case_that_later_alerts_join_and_that_ends_with_the_last(
    rig: Alerting, only: Desk, clock: Callable[[float], None]
) -> None:
    rig.send(*alerts(30), *alerts(20, "Many"))
    found = only.new()
    assert [one.thread for one in found].count("group:Storm") == 1 and len(found) == 21
    (storm,) = (one for one in found if one.thread == "group:Storm")
    group: Any = storm.attributes["group"]
    assert group["size"] == 30 and {"instance": "host-7"} in group["labels"]
    assert storm.attributes["labels"] == {"alertname": "Storm", "severity": "page"}
    assert storm.subject.startswith("Storm: 30 alerts at once") and storm.arrived == AT
    rig.send(*alerts(40), *alerts(21, "Many"))
    found = only.new()
    assert [one.thread for one in found] == ["group:Many"], "one more of 20 that began right before is a storm"
    end(rig, alerts(39))
    assert only.told() == []
    clock(7 * MINUTE)
    assert only.told() == [], "a member still fires"
    clock(61 * MINUTE)
    only.tick()
    rig.send(*alerts(1))
    (late,) = only.new()
    assert not late.thread.startswith("group:"), "what begins an hour later was swallowed"
    end(rig, alerts(40))
    only.tick()
    clock(61 * MINUTE)
    assert ("resolved", storm.key, None) in only.told()


@pytest.mark.parametrize("killed", [1, 2, 21, 40, 99, 100, 101, 130])
@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_poll_that_is_killed_anywhere_loses_nothing_and_repeats_nothing(
    rig: Alerting, only: Desk, killed: int
) -> None:
    rig.send(*alerts(60), *alerts(19, "Many"), *alerts(3, "Few"))
    only.tick(most=killed, portion=10)
    rig.send(*alerts(3, "Few", since=AT + timedelta(hours=1)))  # Prometheus was started anew meanwhile
    only.tick()
    assert only.tick() == []
    keys = only.cases()
    assert len(keys) == len(set(keys)) == 23 and sum(key.startswith("group:") for key in keys) == 1
    assert len(only.known.recall("alert/")) == 82


def test_a_storm_of_thousands_is_a_few_cases_in_bounded_memory(
    rig: Alerting, only: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    storm = [one for name in ("Disk", "Node", "Pod", "Net", "Api") for one in alerts(1000, name, text="x" * 500)]
    for first in range(0, len(storm), 500):
        rig.send(*storm[first : first + 500])
    code = (
        "import sys; from tasks.ledger.database import Ledger;"
        "from tests.alerted import Desk;"
        "desk = Desk(Ledger(sys.argv[1]), sys.argv[2]); n = len(desk.new());"
        # What getrusage says is at least what the process that started this one had.
        "again = len(desk.tick()); told = open('/proc/self/status').read();"
        "print(n, again, told.split('VmHWM:')[1].split()[0])"
    )
    command = [sys.executable, "-c", code, only.ledger.url, only.source]
    ran = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300, check=True)
    made, again, kilobytes = map(int, ran.stdout.split())
    assert (made, again) == (5, 0), "what goes on is noted again and again"
    assert kilobytes < 500 * 1024
    assert len(only.known.recall("alert/")) == 5000


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_with_nobody_to_ask_an_alert_is_over_after_minutes_of_other_news_or_an_hour_of_none(
    rig: Alerting, only: Desk, clock: Callable[[float], None], heard: bool
) -> None:
    rig.send(*alerts(1))
    assert len(only.new()) == 1
    end(rig, alerts(1))
    assert only.told() == []
    clock(10 * MINUTE)
    if heard:
        rig.send(*alerts(1, "Other"))  # which goes on, and is shown as sent lately by the same clock
        late = datetime.now(UTC) + timedelta(seconds=10 * MINUTE)
        shown = tasks.alerts.shown_by
        with pytest.MonkeyPatch.context() as patch:
            newer = lambda place: [one._replace(updated=late) for one in shown(place) if isinstance(one, Alert)]  # noqa: E731
            patch.setattr(alertmanager, "shown_by", newer)
            assert [what for what, _, _ in only.told()] == ["resolved"]
        return
    assert only.told() == []
    clock(51 * MINUTE)
    assert [what for what, _, _ in only.told()] == ["resolved"]
