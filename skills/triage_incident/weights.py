"""Says what the findings about an alert speak for, by stated weights: no part of it learns or guesses.

The weights are added to the log-odds that a person is needed. They are opinions of an on-call engineer and no fit to
data; the review's threshold decides from which confidence on they are acted on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from skills.triage_incident.findings import Alert, Correlated, Fact, Gathered, alert_of
from skills.triage_incident.reading import FAR_STEP
from tasks.channels.alertmanager import matchers_for
from tasks.errors import BadInput
from tasks.ledger.episodes import Episode
from tasks.records import Case

BY_SEVERITY = {"critical": 3.0, "high": 1.8, "medium": 0.7, "low": -2.2}
GROUP = 2.0  # many alerts of one name at once
SUSTAINED = 1.2  # times the share of points beyond the threshold since the start, less a half
SIZE = 0.6  # at twice the threshold; in proportion below
WORSE = 0.8  # a threshold further in a minute; in proportion below, and against it when it gets better
CHANCE = 2  # times that it ended by itself say nothing yet: what is real may have come and gone before
BY_ITSELF, MOST_BY_ITSELF = -0.9, 5  # from then on for each time that it ended and nobody was called
LONGER = 2.0  # it lasts half as long again as any of these
RELATED, MOST_RELATED = 0.4, 4  # for each other alert of the same component
OVER = -1.0  # it has ended already
VERDICTS = 2.5  # at most, of ln((needed + 1/2) / (not needed + 1/2)) by what was said of earlier episodes
SAME_TROUBLE = 600.0  # seconds: what ended less than that before the start belongs to this episode
NUISANCE = 3  # times that it ended by itself, from which on it may be silenced
SHORTEST, LONGEST = 10, 120  # minutes of a silence: twice the longest that it lasted, within these
TREND = 120.0  # seconds before the start, from which on a trend counts
SPOKE_AGAINST = {"un-silenced", "came back", "outlasted"}


def weigh(case: Case, found: Gathered) -> Correlated:
    """The facts with their weights, and whether the alert may be kept quiet."""
    alert, start = alert_of(case), case.arrived.timestamp()
    gone = _by_itself(found, start)
    facts = [_severity(alert), *_measured(found, start), *_gone(gone, found, start), *_group(alert)]
    facts += [*_related(found), *_history(found.earlier), *_state(found)]
    if found.runbook:
        facts.append(Fact(source="runbook", text=_short(found.runbook)))
    facts += [Fact(source="not read", text=one) for one in found.blind]
    against = found.un_silenced or any(SPOKE_AGAINST & set(one.said) for one in found.earlier)
    if against:
        text = "a person or a later event spoke against keeping it quiet before"
        facts.append(Fact(source="ledger/history", text=text))
    longest = max((end - begin for begin, end in gone), default=0.0)
    return Correlated(
        facts=tuple(facts),
        nuisance=len(gone) >= NUISANCE,
        quiet=not against and not alert.group and alert.severity != "critical" and _matchable(alert),
        minutes=max(SHORTEST, min(LONGEST, math.ceil(2 * longest / 60))),
    )


def _matchable(alert: Alert) -> bool:
    try:
        return bool(alert.name and matchers_for(alert.labels))
    except BadInput:
        return False


def _short(text: str, limit: int = 300) -> str:
    return " ".join(text.split())[:limit]


def _severity(alert: Alert) -> Fact:
    told = _short(alert.labels.get("severity", ""), 40)
    text = f"its severity is {told!r}, read as {alert.severity}" if told else f"it has no severity: {alert.severity}"
    return Fact(source="alert/severity", text=text, weight=BY_SEVERITY[alert.severity])


def _group(alert: Alert) -> list[Fact]:
    found = []
    if alert.group > 1:
        found.append(Fact(source="alert/group", text=f"{alert.group} alerts of this name came at once", weight=GROUP))
    if alert.flaps:
        found.append(Fact(source="alert/flaps", text=f"it ended and came again {alert.flaps} times within minutes"))
    return found


def _measured(found: Gathered, start: float) -> list[Fact]:
    """How far, how long and which way the measured value is beyond the threshold."""
    limit, near = found.limit, found.near
    if limit is None or near is None or not near.points:
        return []
    since = [value for at, value in near.points if at >= start - 1] or [near.points[-1][1]]
    share = sum(limit.beyond(one) for one in since) / len(since)
    shown = f"{_short(limit.measured, 120)} {limit.how} {limit.threshold:g}"
    many = f"{share:.0%} of {len(since)} points since the start"
    facts = [Fact(source="prometheus/range", text=f"{shown} in {many}", weight=SUSTAINED * (share - 0.5))]
    if limit.how in ("==", "!="):
        return facts
    unit = abs(limit.threshold) or max(abs(value) for _, value in near.points) or 1.0
    sign = 1.0 if limit.how.startswith(">") else -1.0
    size = sign * (since[-1] - limit.threshold) / unit
    text = f"the newest value is {since[-1]:.6g}, {abs(size):.0%} {'beyond' if size > 0 else 'short of'} the threshold"
    facts.append(Fact(source="prometheus/newest", text=text, weight=SIZE * max(0.0, min(1.0, size))))
    slope = sign * _slope([(at, value) for at, value in near.points if at >= start - TREND]) * 60 / unit
    way = "worse" if slope > 0 else "better"
    text = f"it gets {way} by {abs(slope):.0%} of the threshold in a minute"
    facts.append(Fact(source="prometheus/trend", text=text, weight=WORSE * max(-1.0, min(1.0, slope))))
    return facts


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """By least squares, in units a second."""
    if len(points) < 3:
        return 0.0
    middle, mean = (sum(one[place] for one in points) / len(points) for place in (0, 1))
    spread = sum((at - middle) ** 2 for at, _ in points)
    return sum((at - middle) * (value - mean) for at, value in points) / spread if spread else 0.0


def _stretches(times: Sequence[float]) -> list[tuple[float, float]]:
    """From when to when something was so, by the times at which it was."""
    found: list[tuple[float, float]] = []
    for at in times:
        if found and at - found[-1][1] <= 2.5 * FAR_STEP:
            found[-1] = (found[-1][0], at)
        else:
            found.append((at, at))
    return found


def _times(found: Gathered) -> list[float]:
    """When it fired; where Prometheus does not know, when it was beyond the threshold."""
    if found.fired is not None and found.fired.points:
        return [at for at, _ in found.fired.points]
    if found.far is not None and found.limit is not None:
        return [at for at, value in found.far.points if found.limit.beyond(value)]
    return []


def _by_itself(found: Gathered, start: float) -> list[tuple[float, float]]:
    """Earlier times that it came and went without anybody called for it, as far as the ledger knows."""
    called = [
        one.began
        for one in found.earlier
        if one.right is not False and (one.kind == "handed_over" or one.answer == "page")
    ]
    earlier = [(begin, end) for begin, end in _stretches(_times(found)) if end < start - SAME_TROUBLE]
    mine = [
        (begin, end)
        for begin, end in earlier
        if not any(begin - SAME_TROUBLE <= at <= end + SAME_TROUBLE for at in called)
    ]
    # What is older than the hours that were asked for, only the ledger remembers.
    left = [
        (one.began, one.resolved)
        for one in found.earlier
        if one.kind == "acted" and one.answer in ("silence", "note") and one.resolved and one.right is not False
    ]
    return mine if len(mine) >= len(left) else left


def _gone(gone: Sequence[tuple[float, float]], found: Gathered, start: float) -> list[Fact]:
    if not gone:
        return [Fact(source="prometheus/earlier", text="it did not come and go before")] if _times(found) else []
    longest = max(end - begin for begin, end in gone)
    text = f"{len(gone)} times before it ended and nobody was called, after {longest / 60:.1f} min at most"
    weight = BY_ITSELF * min(len(gone), MOST_BY_ITSELF) if len(gone) > CHANCE else 0.0
    facts = [Fact(source="prometheus/earlier", text=text, weight=weight)]
    if found.at - start > 1.5 * max(longest, FAR_STEP) and found.firing is not False:
        text = f"it lasts {(found.at - start) / 60:.1f} min now, longer than ever"
        facts.append(Fact(source="prometheus/longer", text=text, weight=LONGER))
    return facts


def _related(found: Gathered) -> list[Fact]:
    if not found.related:
        return []
    names = sorted({one.labels.get("alertname", "?") for one in found.related})
    text = f"{len(found.related)} other alert(s) of the same component fire: {', '.join(names)[:200]}"
    weight = RELATED * min(len(found.related), MOST_RELATED)
    return [Fact(source="alertmanager/related", text=text, weight=weight)]


def _history(earlier: Sequence[Episode]) -> list[Fact]:
    """What people and later events said of what was concluded before."""
    told = [(one, one.right) for one in earlier if one.kind in ("acted", "handed_over") and one.right is not None]
    if not told:
        return []
    needed = sum((one.answer == "page" or one.kind == "handed_over") == right for one, right in told)
    weight = math.log((needed + 0.5) / (len(told) - needed + 0.5))
    cases = ", ".join(str(one.case) for one, _ in told[:5])
    text = f"of {len(told)} earlier episodes that somebody spoke about, {needed} needed a person (cases {cases})"
    return [Fact(source="ledger/history", text=text, weight=max(-VERDICTS, min(VERDICTS, weight)))]


def _state(found: Gathered) -> list[Fact]:
    if found.firing is None:
        return []
    asked = f"{datetime.fromtimestamp(found.at, UTC):%H:%M:%S} UTC"
    if found.firing:
        return [Fact(source="prometheus/state", text=f"it fired at {asked}")]
    return [Fact(source="prometheus/state", text=f"it had ended by {asked}", weight=OVER)]
