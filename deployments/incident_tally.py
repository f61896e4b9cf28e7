"""Counts what became of each episode from the pager's log, Alertmanager's silences and Prometheus's history only."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from statistics import median
from typing import Any, NamedTuple

from deployments.episodes import Episode

OURS = "holdfast"  # who made a silence, as Alertmanager shows it
LONGEST_SECONDS = 24 * 3600.0
GAP_SECONDS = 3.5  # without a sample: it stopped firing in between, and was not only evaluated late


class Firing(NamedTuple):
    """One time that an alert fired, as Prometheus noted it."""

    labels: Mapping[str, str]
    began: float
    ended: float


class Kill(NamedTuple):
    """What was killed, and when work went on."""

    what: str
    at: float
    back: float


class Tally(NamedTuple):
    """The figures of a demonstration; `wrong` holds one sentence for each thing that should not be."""

    episodes: int
    actionable: int
    paged: int
    """Episodes that a person was called for."""
    paged_twice: int
    """Calls beyond the first for one episode; a request that repeats a key calls nobody."""
    paged_again: int
    """Calls for what had ended and began again, as what flaps does."""
    missed: int
    missed_by_judgment: int
    """Of the missed: the agent held that no person is needed, which a silence or a note of its own shows."""
    needless_pages: int
    silenced: int
    silences_doubled: int
    silences_left_behind: int
    """Active, and without an end within a day, past their end, about no episode or several, or unknown to the agent."""
    notes: int
    requests_repeated: int
    page_seconds_median: float | None
    page_seconds_worst: float | None
    warm_page_seconds_median: float | None
    """Without the episodes that fired before the agent was back and were paged after it was killed."""
    warm_page_seconds_worst: float | None
    back_seconds: float | None
    wrong: list[str]

    @property
    def good(self) -> bool:
        return not self.wrong


def firings(series: Sequence[Mapping[str, Any]]) -> list[Firing]:
    """Each time that an alert fired, from the samples of Prometheus's ALERTS series."""
    found = []
    for one in series:
        labels = {name: value for name, value in one["metric"].items() if name not in ("__name__", "alertstate")}
        times = [float(at) for at, _ in one["values"]]
        first = times[0]
        for at, following in zip(times, [*times[1:], float("inf")], strict=True):
            if following - at > GAP_SECONDS:
                found.append(Firing(labels, first, at))
                first = following
    return sorted(found, key=lambda one: one.began)


def tally(
    episodes: Sequence[Episode],
    fired: Sequence[Firing],
    requests: Sequence[Mapping[str, Any]],
    silences: Sequence[Mapping[str, Any]],
    known: Collection[str],
    kill: Kill | None,
    now: float,
) -> Tally:
    """Count, and say what is wrong.

    Args:
        episodes: What happened, with its truth.
        fired: What Prometheus says fired.
        requests: The pager's log.
        silences: All that Alertmanager knows, expired ones as well.
        known: The silences that the agent's ledger holds as confirmed, by their ids.
        kill: None if nothing was killed, or nothing went on after it.
        now: When Alertmanager was asked.
    """
    began = {name: at for name, at in ((_name(one.labels), one.began) for one in reversed(fired))}
    wrong = [f"{_called(one)} never fired, which the rig is to blame for" for one in episodes if one.name not in began]
    pages: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)
    notes: Counter[tuple[str, str]] = Counter()
    for request in requests:
        about = _about(request["body"], episodes)
        if request["repeats"]:
            continue
        if about is None:
            wrong.append(f"a {request['path'].strip('/')} names no episode, or several: {request['body'][:300]}")
        elif request["path"] == "/page":
            pages[about.name].append((float(request["at"]), _since(request["body"]) if about.flaps else ""))
        else:
            notes[about.name] += 1
    ours = [one for one in silences if one["createdBy"] == OURS]
    quiet = Counter(one.name for silence in ours for one in episodes if _matches(silence, one))
    left = [why for one in ours if (why := _left_behind(one, episodes, known, now))]
    actionable = [one for one in episodes if one.actionable]
    missed = [one for one in actionable if not pages[one.name]]
    judged = [one for one in missed if quiet[one.name] or notes[one.name]]
    different = {one.name: len({since for _, since in pages[one.name]}) for one in episodes}
    twice = {one.name: more for one in episodes if (more := len(pages[one.name]) - different[one.name])}
    wrong += [f"{' of '.join(name)}: a person was called {more} times too often" for name, more in twice.items()]
    for one in missed:
        why = "the agent held that nobody is needed" if one in judged else "nothing reached the pager"
        wrong.append(f"{_called(one)} was missed: {why}. In truth {one.truth}")
    wrong += [f"{' of '.join(name)}: {count} silences" for name, count in quiet.items() if count > 1]
    wrong += left
    if kill is None:
        wrong.append("nothing was killed, or nothing followed after the kill")
    first = {name: min(at for at, _ in calls) for name, calls in pages.items() if calls and name in began}
    waited = [(name, at - began[name], at) for name, at in first.items()]
    seconds = [long for _, long, _ in waited]
    warm = [long for name, long, at in waited if kill is None or not (began[name] < kill.back and at > kill.at)]
    return Tally(
        episodes=len(episodes),
        actionable=len(actionable),
        paged=sum(1 for calls in pages.values() if calls),
        paged_twice=sum(twice.values()),
        paged_again=sum(count - 1 for count in different.values() if count),
        missed=len(missed),
        missed_by_judgment=len(judged),
        needless_pages=sum(1 for one in episodes if not one.actionable and pages[one.name]),
        silenced=len(quiet),
        silences_doubled=sum(count - 1 for count in quiet.values()),
        silences_left_behind=len(left),
        notes=sum(notes.values()),
        requests_repeated=sum(1 for one in requests if one["repeats"]),
        page_seconds_median=round(median(seconds), 2) if seconds else None,
        page_seconds_worst=round(max(seconds), 2) if seconds else None,
        warm_page_seconds_median=round(median(warm), 2) if warm else None,
        warm_page_seconds_worst=round(max(warm), 2) if warm else None,
        back_seconds=round(kill.back - kill.at, 2) if kill else None,
        wrong=wrong,
    )


def _name(labels: Mapping[str, str]) -> tuple[str, str]:
    return labels["alertname"], labels.get("service", "")


def _called(one: Episode) -> str:
    return " of ".join(one.name)


def _about(body: str, episodes: Sequence[Episode]) -> Episode | None:
    """The one episode that the subject of a request names: what a person who is called reads first."""
    try:
        subject = str(json.loads(body)["subject"])
    except (ValueError, KeyError, TypeError):
        return None
    words = set(re.findall(r"\w+", subject))
    found = [one for one in episodes if words.issuperset(one.name)]
    return found[0] if len(found) == 1 else None


def _since(body: str) -> str:
    """Since when the alert fires, as the page says."""
    found = re.search(r"Since (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", body)
    return found.group(1) if found else ""


def _matches(silence: Mapping[str, Any], one: Episode) -> bool:
    labels = one.labels
    for matcher in silence["matchers"]:
        value, wanted = labels.get(matcher["name"], ""), matcher["value"]
        same = re.fullmatch(wanted, value) is not None if matcher["isRegex"] else value == wanted
        if same != matcher.get("isEqual", True):
            return False
    return True


def _left_behind(silence: Mapping[str, Any], episodes: Sequence[Episode], known: Collection[str], now: float) -> str:
    """Why an active silence should not be there; '' if somebody stands for it and it ends by itself."""
    if silence["status"]["state"] != "active":
        return ""
    starts, ends = (datetime.fromisoformat(silence[one]).timestamp() for one in ("startsAt", "endsAt"))
    hit = [_called(one) for one in episodes if _matches(silence, one)]
    said = f"silence {silence['id']} is left behind: it"
    if ends - starts > LONGEST_SECONDS:
        return f"{said} is for {(ends - starts) / 3600:.0f} hours"
    if ends < now:
        return f"{said} is active past its end"
    if len(hit) != 1:
        return f"{said} is about {len(hit)} episodes: {', '.join(hit)}"
    return "" if silence["id"] in known else f"{said} stands for {hit[0]}, and the agent does not know of it"
