"""What Alertmanager shows and Prometheus evaluates, as far as anything else may rely on it: cleaned and bounded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tasks import web
from tasks.errors import BadInput
from tasks.records import Unreadable
from tasks.sources.mail import clean

LABELS = 64  # of one alert; more is an attack on whoever reads it
NAME, VALUE, WORDS = 200, 1_000, 4_000  # characters of a name, of a label's value, of an annotation
SHORT = 80  # characters of what is compared later
SHOWN = 20  # alerts that can not be read, of one poll
FINGERPRINT = re.compile(r"[0-9A-Za-z]{1,64}")


class Alert(NamedTuple):
    """One alert that Alertmanager shows."""

    fingerprint: str
    name: str
    starts: datetime
    updated: datetime
    labels: dict[str, str]
    annotations: dict[str, str]
    generator: str
    receivers: list[str]
    active: bool
    """Neither silenced nor inhibited."""
    cut: bool
    """Whether a label is not here word for word, so that it matches nothing."""


def time_of(text: object) -> datetime:
    """ValueError if it is no time with a zone."""
    try:
        found = datetime.fromisoformat(str(text)).astimezone(UTC)
        found.timestamp()
    except (OverflowError, OSError) as why:
        raise ValueError(f"{text!r:.60} is no time") from why
    return found


def shown_by(place: web.Place) -> Iterator[Alert | Unreadable]:
    """All that Alertmanager shows, suppressed ones too. NotSent while it can not be asked, BadInput if it is none."""
    found = web.read_json(place, "/api/v2/alerts")
    if not isinstance(found, list):
        raise BadInput(f"{place.shown}/api/v2/alerts answers with no list. Is it an Alertmanager?")
    broken = 0
    for number, one in enumerate(found):
        try:
            yield _alert(one)
        except (KeyError, TypeError, ValueError, AttributeError) as why:
            broken += 1
            if broken <= SHOWN:
                said = clean(f"{type(why).__name__}: {why}", one_line=True)[:200]
                yield Unreadable(marker=f"alert {number} of {place.shown}", why=f"it is not as Alertmanager's: {said}")
    if broken > SHOWN:
        yield Unreadable(marker=place.shown, why=f"{broken - SHOWN} more of its alerts are not as Alertmanager's")


def _alert(one: Any) -> Alert:
    fingerprint, state = str(one["fingerprint"]), str(one["status"]["state"])
    if not FINGERPRINT.fullmatch(fingerprint):
        raise ValueError(f"{fingerprint[:80]!r} is no fingerprint")
    labels = _texts(one["labels"], VALUE)
    return Alert(
        fingerprint=fingerprint,
        name=named(labels.get("alertname", "")),
        starts=time_of(one["startsAt"]),
        updated=time_of(one.get("updatedAt") or one["startsAt"]),
        labels=labels,
        annotations=_texts(one.get("annotations") or {}, WORDS),
        generator=clean(str(one.get("generatorURL") or ""), one_line=True)[:WORDS],
        receivers=[
            clean(str(each["name"]), one_line=True)[:NAME] for each in list(one.get("receivers") or [])[:LABELS]
        ],
        active=state == "active",
        cut=labels != one["labels"],
    )


def _texts(given: Any, most: int) -> dict[str, str]:
    if not all(isinstance(value, str) for value in given.values()):
        raise ValueError("a label or annotation is no text")
    some = sorted(given.items())[:LABELS]
    return {clean(name, one_line=True)[:NAME]: clean(value[: 2 * most])[:most] for name, value in some}


def named(text: str) -> str:
    """The name of a rule and of its alerts, on one line."""
    return clean(text, one_line=True)[:NAME] or "unnamed"


def short(text: str) -> str:
    """The text, or what stands for a long one: good for comparing."""
    return text if len(text) <= SHORT else f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def shortened(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels for comparing, of bounded size."""
    return {short(name): short(value) for name, value in sorted(labels.items())[:LABELS]}


def server_of(generator: str) -> str:
    """Which Prometheus an alert came from."""
    try:
        return short(urlsplit(generator).netloc)
    except ValueError:
        return ""


def up_since(place: web.Place) -> float:
    """When this Alertmanager was started, in seconds since 1970."""
    try:
        return time_of(web.read_json(place, "/api/v2/status")["uptime"]).timestamp()
    except (KeyError, TypeError, ValueError) as why:
        raise BadInput(f"{place.shown}/api/v2/status does not say since when it is up. Is it an Alertmanager?") from why


class Rule(NamedTuple):
    """One alerting rule: whether its word counts, and the labels of what it holds for pending or firing."""

    reliable: bool
    holds: list[dict[str, str]]


class Evaluated(NamedTuple):
    """What a Prometheus evaluates."""

    rules: Mapping[str, list[Rule]]

    def over(self, name: str, labels: Mapping[str, str]) -> bool | None:
        """Whether an alert with these `shortened` labels is over; None if this Prometheus has no rule of that name.

        Alertmanager may know labels that Prometheus adds on the way and lack some that it drops there. So what agrees
        in all labels that both have is taken for the same: in doubt it goes on.
        """
        rules = self.rules.get(name)
        if not rules:
            return None
        return all(one.reliable and not any(_agree(labels, held) for held in one.holds) for one in rules)


def _agree(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def evaluated_by(place: web.Place, names: Iterable[str]) -> Evaluated:
    """Ask a Prometheus for its rules of these names. NotSent while it can not be asked.

    A rule's word counts once Prometheus has found out anew what it forgot at its start: each target was scraped three
    times (a rate needs two values) and the rule evaluated twice since; then a `for` is restored, and what is true
    again is at least pending. It counts if the rule was evaluated well, and lately by Prometheus' own clock.
    """
    wanted = set(names)
    try:
        now = float(_data(place, "/api/v1/query", query="time()")["result"][1])
        began = time_of(_data(place, "/api/v1/status/runtimeinfo")["startTime"]).timestamp()
        targets = _data(place, "/api/v1/targets", state="active")["activeTargets"]
        slowest = max((_seconds(one.get("scrapeInterval", "1m")) for one in targets), default=0.0)
        found: dict[str, list[Rule]] = {}
        for group in _data(place, "/api/v1/rules", type="alert")["groups"]:
            settled = began + 3 * slowest + 2 * group["interval"]
            for rule in group["rules"]:
                if (name := named(rule["name"])) in wanted:
                    at = time_of(rule["lastEvaluation"]).timestamp()
                    lately = now - at <= 3 * max(group["interval"], 20.0)
                    holds = [shortened(_texts(one["labels"], VALUE)) for one in rule["alerts"]]
                    reliable = rule["health"] == "ok" and at >= settled and lately
                    found.setdefault(name, []).append(Rule(reliable, holds))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as why:
        raise BadInput(f"{place.shown} answers with something else than a Prometheus: see `prometheus=`.") from why
    return Evaluated(found)


def _data(place: web.Place, path: str, **params: str) -> Any:
    return web.read_json(place, path, params=params)["data"]


def _seconds(text: str) -> float:
    """A duration as Prometheus writes it, such as `1m30s`."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0, "y": 31_536_000.0}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)(ms|[smhdwy])", text))
