"""A silence is made once, of one alert, for a bounded time, and never again once a person ended it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tasks import channels
from tasks.channels.alertmanager import ended_by_a_person, matchers_for
from tasks.errors import BadInput, NotSent, Refused
from tasks.records import Effect
from tests.alerting import Alerting, alerting_in
from tests.conftest import free_port, wait_for
from tests.valve import valve_before


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alerting]:
    with alerting_in(tmp_path_factory.mktemp("rig")) as found:
        yield found


@pytest.fixture
def url(rig: Alerting) -> str:
    return f"alertmanager://127.0.0.1:{rig.alertmanager.port}"


def silence(minutes: int = 30, **labels: str) -> Effect:
    matchers = [dict(name=name, value=value, isRegex=False, isEqual=True) for name, value in labels.items()]
    return Effect(kind="silence", body="Case 1: it comes and goes", data={"matchers": matchers, "minutes": minutes})


def made(rig: Alerting, **labels: str) -> list[dict[str, object]]:
    return [one for one in rig.silences() if {m["name"]: m["value"] for m in one["matchers"]} == labels]


def test_the_same_silence_sent_twice_is_one(rig: Alerting, url: str) -> None:
    labels = {"alertname": "Twice", "instance": "a"}
    first, second = (channels.send(url, "twice", silence(**labels), "") for _ in range(2))
    (only,) = made(rig, **labels)
    assert first.reference == second.reference == only["id"] and only["createdBy"] == "holdfast"
    found = channels.find(url, "twice")
    assert found is not None and found.reference == only["id"] and channels.find(url, "another") is None
    took = datetime.fromisoformat(str(only["endsAt"])) - datetime.now(UTC)
    assert timedelta(minutes=29) < took <= timedelta(minutes=30)


def test_a_silence_that_a_person_ended_is_found_and_not_made_again(rig: Alerting, url: str) -> None:
    labels = {"alertname": "Ended", "instance": "a"}
    first = channels.send(url, "ended", silence(**labels), "")
    assert not ended_by_a_person(url, matchers_for(labels))
    rig.expire(first.reference)
    found = channels.find(url, "ended")
    assert found is not None and found.reference == first.reference
    assert channels.send(url, "ended", silence(**labels), "").reference == first.reference
    with pytest.raises(Refused, match="A person ended"):
        channels.send(url, "the next episode", silence(**labels), "")
    assert len(made(rig, **labels)) == 1 and ended_by_a_person(url, matchers_for(labels))
    channels.send(url, "another alert", silence(alertname="Ended", instance="b"), "")


def test_a_silence_whose_time_is_over_may_follow_another(rig: Alerting, url: str) -> None:
    labels = {"alertname": "Over", "instance": "a"}
    ends = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    comment = f"it was quiet [holdfast {'0' * 64} until {ends}]"
    rig.silence(by="holdfast", comment=comment, minutes=1 / 60, **labels)
    wait_for(lambda: made(rig, **labels)[0]["status"] == {"state": "expired"}, 60, "the end of the silence")
    assert channels.send(url, "over", silence(**labels), "").found is False
    assert len(made(rig, **labels)) == 2


def test_only_the_alert_with_just_these_labels_becomes_quiet(rig: Alerting, url: str) -> None:
    odd = 'a"\\{}=~.*\n$'
    for instance in (odd, "b"):
        rig.send({"labels": {"alertname": "Odd", "instance": instance}, "annotations": {}})
    channels.send(url, "odd", silence(alertname="Odd", instance=odd), "")

    def states() -> Mapping[str, str]:
        return {one["labels"]["instance"]: one["status"]["state"] for one in rig.alerts("alertname=Odd")}

    wait_for(lambda: states() == {odd: "suppressed", "b": "active"}, 60, "the silence")


EXACT = {"name": "alertname", "value": "X", "isRegex": False, "isEqual": True}


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"matchers": [], "minutes": 5},
        {"matchers": [EXACT]},
        {"matchers": [EXACT], "minutes": 0},
        {"matchers": [EXACT], "minutes": 24 * 60 + 1},
        {"matchers": [EXACT, EXACT], "minutes": 5},
        {"matchers": [EXACT | {"name": "job"}], "minutes": 5},
        {"matchers": [EXACT | {"value": ""}], "minutes": 5},
        {"matchers": [EXACT | {"value": ".*", "isRegex": True}], "minutes": 5},
        {"matchers": [EXACT | {"isEqual": False}], "minutes": 5},
        {"matchers": [EXACT | {"name": "a b"}], "minutes": 5},
        {"matchers": "all", "minutes": 5},
    ],
)
def test_a_silence_that_is_too_wide_or_too_long_is_refused(rig: Alerting, url: str, data: dict[str, object]) -> None:
    before = len(rig.silences())
    with pytest.raises(Refused):
        channels.send(url, "wide", Effect.model_validate(dict(kind="silence", body="", data=data)), "")
    assert len(rig.silences()) == before


def test_a_silence_whose_answer_is_lost_is_found(rig: Alerting) -> None:
    labels = {"alertname": "Lost", "instance": "a"}
    with valve_before(rig.alertmanager.url) as valve:
        valve.cut = True
        through = f"alertmanager://{valve.address}"
        with pytest.raises(httpx.HTTPError):
            channels.send(through, "lost", silence(**labels), "")
        assert channels.find(through, "lost") is not None
        channels.send(through, "lost", silence(**labels), "")
    assert len(made(rig, **labels)) == 1


def test_an_alertmanager_that_can_not_be_asked_is_no_proof_of_anything() -> None:
    url = f"alertmanager://127.0.0.1:{free_port()}"
    with pytest.raises(NotSent):
        channels.find(url, "k")
    with pytest.raises(NotSent):
        channels.send(url, "k", silence(alertname="X"), "")


def test_a_wrong_alertmanager_url_is_known_before_any_work() -> None:
    for url in ("alertmanager:", "alertmanager://u:secret@h", "alertmanager+ftp://h", "alertmanager://h?x=1"):
        with pytest.raises(BadInput, match="Write alertmanager") as why:
            channels.check(url)
        assert "secret@" not in str(why.value)
