"""What an alert's numbers speak for can be followed by hand, and no broken number or expression ends a case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skills.triage_incident.expression import limit_of
from skills.triage_incident.findings import Gathered, Judgement, Limit, alert_of
from skills.triage_incident.logistic import by_features
from skills.triage_incident.weights import weigh
from tasks.errors import BadInput
from tasks.ledger.episodes import Episode
from tasks.prometheus import Series, monitors
from tasks.records import Case
from tasks.runbooks import runbook
from tests.incidents import episode

START = 1_800_000_000.0
LIMIT = Limit(measured="depth", how=">", threshold=100)


def case(severity: str = "warning", **more: Any) -> Case:
    came = episode("QueueBacklog", severity, started=START, more=more, service="mail")
    return Case(id=1, agent="desk", source="s", **came.model_dump(exclude={"marker"}))


def curve(*values: float, step: float = 5.0) -> Series:
    """A series that ends ten seconds after the start."""
    first = START + 10 - step * (len(values) - 1)
    return Series(labels={}, points=tuple((first + step * place, value) for place, value in enumerate(values)))


def judged(found: dict[str, Any], severity: str = "warning", **more: Any) -> Judgement:
    gathered = Gathered.model_validate({"at": START + 10, "limit": LIMIT, "watched": True} | found)
    one = case(severity, **more)
    return by_features(alert_of(one), gathered, weigh(one, gathered))


def fired(*minutes_ago: float, long: float = 4.0) -> Series:
    points = [(START - 60 * ago + 30 * step, 1.0) for ago in minutes_ago for step in range(int(long * 2))]
    return Series(labels={}, points=tuple(sorted(points)))


@pytest.mark.parametrize(
    ("query", "measured", "how", "threshold"),
    [
        ("depth > 100", "depth", ">", 100),
        ('sum by (a) (rate(x{c=~"b>2"}[5m])) >= 0.5', 'sum by (a) (rate(x{c=~"b>2"}[5m]))', ">=", 0.5),
        ("0.1 > free / size", "free / size", "<", 0.1),
        ("((up == 0))", "up", "==", 0),
        ("(a) + (b) < -1e3", "(a) + (b)", "<", -1000),
    ],
)
def test_a_threshold_is_split_from_what_is_measured(query: str, measured: str, how: str, threshold: float) -> None:
    assert limit_of(query) == Limit.model_validate(dict(measured=measured, how=how, threshold=threshold))


@pytest.mark.parametrize(
    "query", ["", "up", "a > b", "a > 1 and b > 2", "a > 1 unless b", "1 > 2", "a > bool 1", "absent(up)", "a > 1 > 2"]
)
def test_what_is_no_plain_threshold_is_left_whole(query: str) -> None:
    assert limit_of(query) is None


@given(st.text(alphabet="ab>=<!(){}[]\"'` 019.eE-+\\and", max_size=60))
def test_no_expression_breaks_its_reader(query: str) -> None:
    limit_of(query)


def test_what_grows_and_never_happened_needs_a_person() -> None:
    found = judged({"near": curve(60, 70, 80, 90, 110, 130, 150), "far": curve(60, 70), "firing": True})
    assert found.needed and found.confidence > 0.8 and found.quiet == "note"


def test_what_ended_by_itself_often_needs_nobody_until_it_lasts_longer_than_ever() -> None:
    told = {"near": curve(60, 150, 150, 150), "fired": fired(300, 200, 120, 60), "firing": True}
    found = judged(told)
    assert not found.needed and (found.quiet, found.minutes) == ("silence", 10)
    assert judged(told | {"at": START + 1800}).needed


def test_what_ended_because_a_person_came_speaks_for_calling_one() -> None:
    called = [
        Episode(case=number, began=START - 60 * ago, kind="acted", answer="page")
        for number, ago in enumerate((300, 200, 120, 60))
    ]
    told = {"near": curve(60, 150, 150, 150), "fired": fired(300, 200, 120, 60), "earlier": called}
    assert judged(told).needed
    needless = [one.model_copy(update={"right": False}) for one in called]
    assert not judged(told | {"earlier": needless}).needed


@pytest.mark.parametrize(
    "told",
    [
        {"un_silenced": True},
        {"earlier": [Episode(case=9, began=START - 9_000, kind="acted", answer="silence", said=("un-silenced",))]},
        {"earlier": [Episode(case=9, began=START - 9_000, kind="acted", answer="silence", said=("outlasted",))]},
        {"earlier": [Episode(case=9, began=START - 9_000, kind="acted", answer="silence", said=("came back",))]},
    ],
)
def test_what_somebody_un_silenced_or_came_back_is_not_silenced(told: dict[str, Any]) -> None:
    noise = {"near": curve(60, 150, 150, 150), "fired": fired(300, 200, 120, 60)}
    assert judged(noise).quiet == "silence" and judged(noise | told).quiet == "note"


def test_critical_alerts_and_storms_are_never_kept_quiet() -> None:
    noise = {"near": curve(60, 150, 150, 150), "fired": fired(300, 240, 200, 120, 60)}
    found = judged(noise, "critical")
    assert found.needed and found.quiet == "note"
    assert judged(noise, group={"size": 500, "labels": []}).quiet == "note"


def test_who_could_not_look_is_not_sure() -> None:
    for severity in ("info", "warning"):
        assert judged({"blind": ["Prometheus: no answer"]}, severity).confidence <= 0.5
    assert judged({"watched": False}, "info").confidence > 0.8, "an agent without a Prometheus is never sure"


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), max_size=30),
    st.sampled_from([">", ">=", "<", "<=", "==", "!="]),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)
def test_no_numbers_break_the_weights(values: list[float], how: str, threshold: float) -> None:
    limit = Limit.model_validate(dict(measured="x", how=how, threshold=threshold))
    found = judged({"limit": limit, "near": curve(*values), "far": curve(*values, step=30)})
    assert 0 <= found.confidence <= 1


def test_a_runbook_comes_from_our_folder_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_RUNBOOKS", str(tmp_path / "books"))
    (tmp_path / "books").mkdir()
    (tmp_path / "books/disk.md").write_text("Delete old files.")
    (tmp_path / "secret").write_text("no")
    (tmp_path / "books/link").symlink_to(tmp_path / "secret")
    assert runbook("http://anywhere.example/a/disk#now", "Other") == "Delete old files."
    assert runbook("", "disk") == "Delete old files."
    assert [runbook(one) for one in ("../secret", "link", "/etc/passwd", "..", "x" * 300, "a\x00b")] == [""] * 6


@pytest.mark.parametrize(
    "source", ["maildir:inbox", "alertmanager://h?prometheus=file:///etc/passwd", "alertmanager://u:p@h", "x"]
)
def test_a_source_that_names_no_monitoring_is_bad_input(source: str) -> None:
    with pytest.raises(BadInput):
        monitors(source)


def test_a_source_names_whom_to_ask() -> None:
    found = monitors("alertmanager+https://am.example/x?prometheus=http://127.0.0.1:9090/p/")
    assert found.alertmanager.base == "https://am.example/x"
    assert found.prometheus is not None and found.prometheus.base == "http://127.0.0.1:9090/p"
    assert monitors("alertmanager://127.0.0.1:9093").prometheus is None
