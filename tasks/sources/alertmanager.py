"""Alerts of a Prometheus Alertmanager: a case for each episode, from when an alert fires to when that is over.

`alertmanager://HOST:PORT?prometheus=http://HOST:PORT`, or `alertmanager+https://...`. Nothing is changed there.

What is not shown is not over: after its own start Alertmanager shows nothing until Prometheus sends again, and after
a start of Prometheus it shows old alerts under a new start. So an episode goes on until it is established that it is
over: Prometheus, once its memory is restored, holds it neither for firing nor for pending (`alerts.evaluated_by`); or,
without Prometheus, it was absent for long (`Episode.silent_for_long`).

Limits: an alert that ends and fires again between two polls is one episode. Two Prometheus with a rule of the same
name and labels are not told apart by `prometheus=`: let them differ in a label, or leave it out. Without `prometheus=`
an alert that is over is known to be so after 5 minutes to an hour, and one that outlives an hour without any word from
Prometheus is a new episode when it is seen again. Another `prometheus=` is another source, with cases of its own.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from pydantic import JsonValue, ValidationError

from tasks import web
from tasks.alerts import Alert, evaluated_by, server_of, short, shown_by, up_since
from tasks.episodes import AT_LEAST, BACK, MINUTE, Episode, begins, to_forget
from tasks.errors import BadInput, HoldfastError
from tasks.records import Arrival, Note, Signal, Unreadable
from tasks.silences import OUTLASTED, SILENCE, ended, ended_by_people, outlasted
from tasks.sources import Found, Known
from tasks.sources.mail import clean

WAY_OUT = "Write alertmanager://host:9093?prometheus=http://host:9090; secrets stand in HOLDFAST_ALERTMANAGER_*."
STORM = 20  # episodes of one alertname that begin within STORM_SECONDS: more of them are one case
STORM_SECONDS = 10 * MINUTE
PORTION = 500  # keys asked for at once
MEMBERS = 50  # of a group that are shown by their labels
TEXT = 20_000  # characters
QUIET = ("silence", "note")  # conclusions that nobody is needed
FIRST = ("severity", "instance", "service", "job", "namespace")
ALERT = "alert/"


def canonical(url: str) -> str:
    """The same name for the same Alertmanager; where its Prometheus is belongs to the name, as other sources ask it."""
    place, prometheus = _places(url)
    how = "" if place.base.startswith("http:") else "+https"
    asked = f"?prometheus={prometheus.base}" if prometheus else ""
    server, slash, path = place.base.partition("://")[2].partition("/")
    return f"alertmanager{how}://{server.lower()}{slash}{path}{asked}"


def _places(url: str) -> tuple[web.Place, web.Place | None]:
    place = web.place_of(url, WAY_OUT, options=("prometheus",))
    named = place.options.get("prometheus", "")
    return place, web.plain_place(named, "prometheus", WAY_OUT) if named else None


class Due(NamedTuple):
    """An alert that is to have a case."""

    alert: Alert
    flaps: int
    before: Episode | None
    """What is remembered of it."""
    outlasted: str = ""
    """The silence of its last case, if that ran out while it fired on."""

    @property
    def key(self) -> str:
        own = f"{self.alert.fingerprint}@{_text_of(self.alert.starts)}"
        return f"{own}/{self.outlasted}" if self.outlasted else own


def poll(url: str, known: Known) -> Iterator[Found]:
    """What began, came back and ended since the last poll. NotSent while Alertmanager can not be asked."""
    place, prometheus = _places(url)
    now, shown = time.time(), dict[str, Alert]()
    for found in shown_by(place):
        if isinstance(found, Unreadable):
            yield found
        else:
            shown[found.fingerprint] = found
    before = {name.removeprefix(ALERT): _remembered(name, value) for name, value in known.recall(ALERT).items()}
    after = dict(before)
    for name, one in before.items():
        if name in shown and not one.over and one.absent:
            after[name] = one.model_copy(update={"absent": 0.0})
        elif name not in shown and not one.over and not one.absent:
            after[name] = one.model_copy(update={"absent": now})
    missing = [name for name, one in after.items() if one.absent and not one.over]
    trouble = _end(place, prometheus, missing, shown, after, now)
    if trouble:
        yield trouble
    yield from _resolved(before, after, now)
    due = [Due(alert, 0, None) for name, alert in shown.items() if name not in before and alert.active]
    again = {name: alert for name, alert in shown.items() if name in before and before[name].over and alert.active}
    yield from _came_back(again, before, after, known, now)
    for name in again:
        after[name] = after[name].fires_again(now)
    for name, one in after.items():
        begun = one.wants_a_case(now) or (name in again and not one.joined)
        if begun and not one.over and name in shown and shown[name].active:
            due.append(Due(shown[name], one.flaps, one))
    firing = [(alert, after[name]) for name, alert in shown.items() if name in after and not after[name].over]
    over = ended(place) if firing else []
    yield from ended_by_people(over, known.recall(SILENCE), firing) if firing else ()
    for alert, one, silence in outlasted(over, firing):
        if alert.fingerprint not in {each.alert.fingerprint for each in due}:
            yield Signal(key=one.key, what="outlasted", right=False, at=silence.ended, why=OUTLASTED)
            due.append(Due(alert, one.flaps, one, silence.id))
    yield from _cases(due, before, after, now)
    old = to_forget(after, now)
    for name, one in after.items():
        if name in old:
            yield Note(name=f"{ALERT}{name}", value=None)
        elif one != before.get(name):
            yield _note(name, one)


def look(url: str) -> str:
    """How many alerts it shows, and that the Prometheus beside it can be asked."""
    place, prometheus = _places(url)
    shown = sum(isinstance(one, Alert) for one in shown_by(place))
    if prometheus is None:
        return f"{shown} alert(s), no Prometheus beside it"
    evaluated_by(prometheus, ())
    return f"{shown} alert(s), {prometheus.shown} answers"


def _remembered(name: str, value: JsonValue) -> Episode:
    try:
        return Episode.model_validate(value)
    except ValidationError as why:
        raise BadInput(f"The note {name!r} of this source is of another version of Holdfast: {why}") from why


def _end(
    place: web.Place,
    prometheus: web.Place | None,
    missing: Sequence[str],
    shown: Mapping[str, Alert],
    after: dict[str, Episode],
    now: float,
) -> Unreadable | None:
    """Mark those that are over; what is wrong if Prometheus can not be asked: then none is."""
    if not missing:
        return None
    evaluated, heard, up = None, dict[str, float](), now
    try:
        if prometheus:
            evaluated = evaluated_by(prometheus, {after[name].name for name in missing})
        up = up_since(place)
    except HoldfastError as why:
        return Unreadable(marker=str(prometheus.shown if prometheus else place.shown), why=f"{why} Nothing ends.")
    for alert in shown.values():
        server = server_of(alert.generator)
        heard[server] = max(heard.get(server, 0.0), alert.updated.timestamp())
    for name in missing:
        one = after[name]
        over = evaluated.over(one.name, one.labels) if evaluated else None
        if one.silent_for_long(now, heard, up) if over is None else over:
            after[name] = one.model_copy(update={"over": now})
    return None


def _resolved(before: Mapping[str, Episode], after: Mapping[str, Episode], now: float) -> Iterator[Signal]:
    """Cases of which nothing fires any more: that of a group when its last member is over."""
    ended = {after[name].key for name, one in before.items() if not one.over and after[name].over and not one.joined}
    still = {one.key for one in after.values() if not one.over}
    for key in sorted(ended - still):
        yield Signal(key=key, what="resolved", right=None, at=datetime.fromtimestamp(now, UTC))


def _came_back(
    again: Mapping[str, Alert], before: Mapping[str, Episode], after: dict[str, Episode], known: Known, now: float
) -> Iterator[Signal]:
    """Cases whose alert fires again within an hour: wrong if they concluded that nobody was needed."""
    still = {one.key for one in after.values() if not one.over}
    first = {before[name].key: name for name in reversed(list(again)) if not before[name].told}
    keys = [key for key in first if key not in still]
    came = {k: v for at in range(0, len(keys), PORTION) for k, v in known.concluded(keys[at : at + PORTION]).items()}
    told = set()
    for key in keys:
        one, outcome = before[first[key]], came.get(key)
        quiet = outcome is not None and outcome.kind == "acted" and outcome.answer in QUIET
        since = max(one.over, outcome.at if outcome and quiet else 0.0)
        if now - since <= BACK:
            why = f"it fires again {(now - one.over) / MINUTE:.0f} minutes after it was over"
            told.add(key)
            right = False if quiet else None
            yield Signal(key=key, what="came back", right=right, at=again[first[key]].starts, why=why)
    for name, one in after.items():
        if one.key in told:
            after[name] = one.model_copy(update={"told": True})


def _cases(due: Sequence[Due], before: dict[str, Episode], after: dict[str, Episode], now: float) -> Iterator[Found]:
    """A case for each, or for all of one alertname in a storm; each is noted right after its case."""
    waiting = {one.alert.fingerprint for one in due}
    others = [one for name, one in after.items() if name not in waiting and not one.over and not one.joined]
    # A storm of which one alert goes on for days must not swallow what begins then.
    groups = {one.name: one for one in others if not one.alone and now - one.cased < AT_LEAST}
    lately: dict[str, int] = defaultdict(int)
    for one in others:
        lately[one.name] += one.alone and now - one.cased < STORM_SECONDS
    by_name: dict[str, list[Due]] = defaultdict(list)
    for each in sorted(due, key=lambda each: (each.alert.starts, each.alert.fingerprint)):
        by_name[each.alert.name].append(each)
    for name, members in by_name.items():
        key, cased = (groups[name].key, groups[name].cased) if name in groups else ("", now)
        if not key and len(members) + lately[name] > STORM:
            key = f"group:{short(name)}@{_text_of(members[0].alert.starts)}"
            yield _grouped(key, members)
        for each in members:
            alert = each.alert
            if not key:
                yield _single(each)
            own = key or each.key
            one = (each.before or begins(alert, now)).with_case(own, cased)
            # As it was read at the next poll: it is not noted a second time at the end of this one.
            before[alert.fingerprint] = after[alert.fingerprint] = one
            yield _note(alert.fingerprint, one)


def _note(name: str, one: Episode) -> Note:
    return Note(name=f"{ALERT}{name}", value=one.model_dump(mode="json", exclude_defaults=True))


def _text_of(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds")


def _single(due: Due) -> Arrival:
    alert = due.alert
    words = [alert.annotations.get(name, "") for name in ("summary", "description", "message")]
    return Arrival(
        marker=due.key,
        key=due.key,
        thread=alert.fingerprint,
        sender="",
        subject=f"{alert.name}: {_named(alert.labels)}"[:300],
        text="\n".join(one for one in words if one)[:TEXT],
        arrived=alert.starts,
        attributes=_attributes(alert, alert.labels, due.flaps),
    )


def _named(labels: Mapping[str, str]) -> str:
    """Labels for people, the telling ones first."""
    order = sorted(labels, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    return clean(", ".join(f"{name}={labels[name][:80]}" for name in order if name != "alertname"), one_line=True)


def _attributes(alert: Alert, labels: Mapping[str, str], flaps: int) -> dict[str, JsonValue]:
    return {
        "fingerprint": alert.fingerprint,
        "labels": dict(labels),
        "annotations": dict(alert.annotations),
        "starts_at": _text_of(alert.starts),
        "generator_url": alert.generator,
        "receivers": list(alert.receivers),
        "flaps": flaps,
        "cut": alert.cut,
    }


def _grouped(key: str, members: Sequence[Due]) -> Arrival:
    """One case for many: what they have in common, and the first of them as an example."""
    first = members[0].alert
    common = dict(first.labels)
    for each in members:
        common = {name: value for name, value in common.items() if each.alert.labels.get(name) == value}
    apart = [{k: v for k, v in one.alert.labels.items() if k not in common} for one in members[:MEMBERS]]
    single = _single(members[0])
    shown = "\n".join(f"- {_named(one)}"[:300] for one in apart)
    text = f"{len(members)} alerts of this name began together. The first says:\n{single.text[:5_000]}\n\n{shown}"
    flaps = max(each.flaps for each in members)
    group: dict[str, JsonValue] = {"size": len(members), "labels": [dict(one) for one in apart]}
    return single.model_copy(
        update={
            "marker": key,
            "key": key,
            "thread": f"group:{first.name}",
            "subject": f"{first.name}: {len(members)} alerts at once; {_named(common)}"[:300],
            "text": text[:TEXT],
            "attributes": {**_attributes(first, common, flaps), "fingerprint": "", "group": group},
        }
    )
