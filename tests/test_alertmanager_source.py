"""One case for each episode of an alert, whatever restarts, flaps, storms or is silenced, and none for what goes on."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select

import tasks.alerts
from tasks.alerts import Alert
from tasks.episodes import Episode, to_forget
from tasks.errors import BadInput, HoldfastError, NotSent
from tasks.ledger.arrivals import concluded, hear, recall, record, seen
from tasks.ledger.database import Ledger
from tasks.ledger.tables import cases, verdicts
from tasks.records import Arrival, Note, Signal, Unreadable
from tasks.sources import Known, alertmanager, canonical
from tests.alerting import RULES, Alerting, alerting_in
from tests.conftest import PROJECT, fill, wait_for
from tests.test_verdicts import conclude

INHIBITING = [{"source_matchers": ["alertname=SwitchDown"], "target_matchers": ["alertname=LinkDown"]}]
DOWN = [
    {"alert": name, "expr": f'down{{what="{name}"}} == 1'} for name in ("SwitchDown", "LinkDown", "Flapper", "Fridge")
]
MINUTE = 60.0
AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alerting]:
    folder = tmp_path_factory.mktemp("alerting")
    with alerting_in(folder, [*RULES, *DOWN], inhibit=INHIBITING, resend="3s") as found:
        yield found


class Desk:
    """What the ticks of an agent do with a source: they write in portions what a poll brings."""

    def __init__(self, ledger: Ledger, source: str) -> None:
        self.ledger, self.source = ledger, canonical(source)
        self.known = Known(
            lambda names: ledger.read_now("see", lambda c: seen(c, self.source, names)),
            lambda prefix: ledger.read_now("recall", lambda c: recall(c, self.source, prefix)),
            lambda keys: ledger.read_now("ask", lambda c: concluded(c, self.source, keys)),
        )

    def tick(self, most: int | None = None, portion: int = 100) -> list[Any]:
        """One poll; killed once so many of its finds are written, if that is said."""
        found: list[Any] = []
        news = islice(alertmanager.poll(self.source, self.known), most)
        while some := list(islice(news, portion)):
            kept = [one for one in some if not isinstance(one, Unreadable)]
            self.ledger.write_now("record", lambda c, kept=kept: record(c, "desk", self.source, kept))  # type: ignore[misc]
            found += some
        return found

    def new(self) -> list[Arrival]:
        return [one for one in self.tick() if isinstance(one, Arrival)]

    def told(self) -> list[tuple[str, str, bool | None]]:
        return [(one.what, one.key, one.right) for one in self.tick() if isinstance(one, Signal)]

    def until_told(self, what: str) -> tuple[str, str, bool | None]:
        found: list[tuple[str, str, bool | None]] = []

        def heard() -> bool:
            found.extend(self.told())
            return any(one[0] == what for one in found)

        wait_for(heard, 60, what)
        return next(one for one in found if one[0] == what)

    def cases(self) -> list[str]:
        found = select(cases.c.key).where(cases.c.source == self.source).order_by(cases.c.id)
        return list(self.ledger.read_now("look", lambda c: c.execute(found).scalars().all()))


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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the source's clock forward by so many seconds, all told."""
    ahead = [0.0]
    monkeypatch.setattr(alertmanager, "time", SimpleNamespace(time=lambda: time.time() + ahead[0]))

    def forward(seconds: float) -> None:
        ahead[0] += seconds

    return forward


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


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_silence_of_ours_speaks_against_itself_only_if_a_person_ends_it_while_the_alert_fires(
    rig: Alerting, desk: Desk
) -> None:
    rig.push('down{what="Fridge"} 1')
    (shown,) = rig.firing("Fridge")
    (one,) = desk.new()
    conclude(desk.ledger, 1, "silence")
    runs_out = rig.silence(by="holdfast", minutes=0.02, **shown["labels"])
    wait_for(lambda: state_of(rig, runs_out) == "expired", 60, "its end")
    assert desk.told() == []
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


def state_of(rig: Alerting, silence: str) -> str:
    return next(str(one["status"]["state"]) for one in rig.silences() if one["id"] == silence)


# Storms, kills and hostile words: given to Alertmanager as a Prometheus would


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
        "from tests.test_alertmanager_source import Desk;"
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


GOOD = {
    "fingerprint": "00ff00ff00ff00ff",
    "labels": {"alertname": "Go\nod", "odd\nname": "a\nb\x00\ud800"},
    "annotations": {"summary": "x" * 1_000_000 + "\ud800"},
    "startsAt": "2026-01-01T00:00:00.123456789Z",
    "updatedAt": "2026-01-01T00:00:00Z",
    "generatorURL": "http://[broken",
    "receivers": [{"name": "a\nb"}],
    "status": {"state": "active", "silencedBy": [], "inhibitedBy": []},
}
BROKEN: list[Any] = [
    None,
    7,
    {},
    GOOD | {"fingerprint": "../../x"},
    GOOD | {"labels": ["alertname"]},
    GOOD | {"labels": {"alertname": 7}},
    GOOD | {"startsAt": "yesterday"},
    GOOD | {"startsAt": "9999-12-31T23:59:59-23:59"},
    GOOD | {"status": None},
    GOOD | {"receivers": [7]},
]


@contextlib.contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[str]:
    """A server that says this to everybody."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"alertmanager://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_alert_that_is_none_is_reported_and_the_others_go_on(ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, tmp_path, [])
    with answering(json.dumps([*BROKEN, GOOD, *[None] * 5000]).encode()) as url:
        found = Desk(ledger, url).tick()
    (good,) = (one for one in found if isinstance(one, Arrival))
    assert len([one for one in found if isinstance(one, Unreadable)]) == 21, "thousands of lines in a log help nobody"
    assert good.attributes["labels"] == {"alertname": "Go\nod", "odd name": "a\nb"} and good.attributes["cut"] is True
    assert len(good.text) <= 4_000 and "\n" not in good.subject
    assert len(json.dumps(good.attributes)) < 10_000


def test_what_is_over_is_remembered_for_hours_and_by_the_thousand_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.episodes.MOST", 2)
    one = Episode(name="n", labels={}, server="", key="k", cased=1.0, fires=(1.0,))
    over = {str(at): one.model_copy(update={"over": float(at)}) for at in (9_000, 9_001, 9_002, 1_000)}
    assert to_forget({**over, "open": one}, 9_003.0) == {"9000", "1000"}
    assert to_forget({"1000": over["1000"]}, 9_003.0) == {"1000"}
    assert to_forget({"1000": over["1000"]}, 8_000.0) == set()


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"[{", 200, "not JSON"),
        (b"[" * 200_000, 200, "not JSON"),
        (b'{"status": "success"}', 200, "Is it an Alertmanager"),
        (b"<html>gone</html>", 404, "answers 404"),
        (b"busy", 503, "answers 503"),
        (b" " * (64 * 1024 * 1024 + 1), 200, "more than 67108864 bytes"),
    ],
)
@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_what_is_no_alertmanager_is_named(ledger: Ledger, body: bytes, status: int, says: str) -> None:
    with answering(body, status) as url, pytest.raises(HoldfastError, match=says):
        Desk(ledger, url).tick()


def test_one_alertmanager_has_one_name() -> None:
    one = "alertmanager://Host:9093?prometheus=http://prom:9090"
    assert (
        canonical(one)
        == canonical(canonical(one))
        == canonical("alertmanager+http://host:9093/?prometheus=http://prom:9090/")
    )
    assert canonical("alertmanager+https://host/am") == "alertmanager+https://host/am"
    for wrong in ("alertmanager:", "alertmanager://u:p@host", "alertmanager://host?promotheus=http://x", f"{one}#x"):
        with pytest.raises(BadInput, match="Write alertmanager://"):
            canonical(wrong)
