"""Reads what Alertmanager, Prometheus, the ledger and a runbook say about an alert; what can not be read is named."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar
from urllib.parse import parse_qs, urlsplit

from skills.triage_incident.expression import limit_of
from skills.triage_incident.findings import Alert, Gathered, Limit, alert_of
from tasks.channels import alertmanager
from tasks.errors import BadInput, NotSent
from tasks.ledger.episodes import earlier_episodes
from tasks.prometheus import Firing, Rule, Series, firing, monitors, query_now, query_range, rules_of
from tasks.records import Case
from tasks.runbooks import runbook
from tasks.web import Place
from tasks.working import in_hand

T = TypeVar("T")
BEFORE, NEAR_STEP = 600.0, 5.0  # seconds before the start that are looked at closely
HOURS, FAR_STEP = 6 * 3600.0, 30.0  # and for whether it came and went before
AFTER = 3600.0  # of a long episode that is worked late, no more than this
COMPONENTS = ("service", "instance", "pod", "node", "host", "namespace", "cluster", "job")
RELATED, RELATED_BYTES = 50, 2_000_000
EARLIER = 50


class _Asking:
    """Asks, and remembers who gave no answer: a dead server is waited for once."""

    def __init__(self) -> None:
        self.blind: list[str] = []
        self._silent: set[str] = set()

    async def __call__(self, who: str, question: Callable[[], Awaitable[T]]) -> T | None:
        if who in self._silent:
            return None
        try:
            return await question()
        except (NotSent, BadInput) as why:
            if isinstance(why, NotSent):
                self._silent.add(who)
            self.blind.append(f"{who}: {why}"[:400])
            return None


class _Measured(NamedTuple):
    """What Prometheus says."""

    query: str = ""
    limit: Limit | None = None
    near: Series | None = None
    far: Series | None = None
    fired: Series | None = None
    firing: bool | None = None


async def look(case: Case) -> Gathered:
    """Everything that can be read now. Raises nothing that only says that somebody could not be asked."""
    alert, asking, now = alert_of(case), _Asking(), time.time()
    hand = in_hand("gather")
    found = _Measured()
    related: list[Firing] = []
    watched, still = False, None
    try:
        place = monitors(hand.work.agent.source)
    except BadInput as why:
        asking.blind.append(str(why)[:400])
    else:
        watched = place.prometheus is not None
        if place.prometheus is not None:
            found = await _measured(asking, place.prometheus, alert, min(case.arrived.timestamp(), now), now)
        if not alert.group:
            related, still = await _related(asking, place.alertmanager, alert)
    earlier = await hand.ledger.read("read earlier episodes", lambda c: earlier_episodes(c, case, EARLIER))
    return Gathered(
        at=now,
        **found._replace(firing=still if found.firing is None else found.firing)._asdict(),
        related=tuple(related),
        un_silenced=await _un_silenced(asking, hand.work.agent.effects.get("silence", ""), alert),
        earlier=tuple(earlier),
        runbook=runbook(*(alert.annotations.get(one, "") for one in ("runbook", "runbook_url")), alert.name),
        blind=tuple(asking.blind),
        watched=watched,
    )


async def _measured(asking: _Asking, prometheus: Place, alert: Alert, start: float, now: float) -> _Measured:
    who, end = "Prometheus", min(now, start + AFTER)
    known = await asking(who, lambda: rules_of(prometheus, alert.name)) if alert.name else []
    query = _query(alert, known or [])
    limit = limit_of(query) if query else None
    measured = limit.measured if limit else query
    near = far = None
    if measured:
        near = await asking(who, lambda: query_range(prometheus, measured, start - BEFORE, end, NEAR_STEP))
        far = await asking(who, lambda: query_range(prometheus, measured, start - HOURS, end, FAR_STEP))
    own = _own(near or far or [], alert.labels)
    # ALERTS has the labels of the series and of the rule, and not those that Prometheus adds on its way out.
    names = {"alertname": alert.name, "alertstate": "firing"} | _shared(own, alert.labels)
    alerts = f"ALERTS{{{','.join(f'{name}={_quoted(value)}' for name, value in sorted(names.items()))}}}"
    told = {**alert.labels, "alertstate": "firing"}
    fired = await asking(who, lambda: query_range(prometheus, alerts, start - HOURS, end, FAR_STEP))
    current = await asking(who, lambda: query_now(prometheus, alerts))
    return _Measured(
        query=query,
        limit=limit,
        near=own if near else None,
        far=_own(far or [], alert.labels),
        fired=_own(fired or [], told),
        # Only a rule that is there can say that the alert is over: a Prometheus that just began knows nothing yet.
        firing=None if current is None or not known else _own(current, told) is not None,
    )


def _query(alert: Alert, rules: Sequence[Rule]) -> str:
    """The alert's expression: of the rule of this name whose labels fit, and else what the alert itself says it is."""
    given = (parse_qs(_query_of(alert.generator_url)).get("g0.expr") or [""])[0]
    fit = [
        one
        for one in rules
        if all("{{" in value or alert.labels.get(name) == value for name, value in one.labels.items())
    ]
    if named := [one.query for one in fit if one.query == given]:
        return named[0]
    return fit[0].query if fit else given


def _query_of(url: str) -> str:
    """The query of a URL that anybody may have written; '' if it is none."""
    try:
        return urlsplit(url).query
    except ValueError:
        return ""


def _own(found: Sequence[Series], labels: Mapping[str, str]) -> Series | None:
    """The series that the alert is about: nothing in its labels contradicts the alert's, and it says most of them."""
    fit = [
        one
        for one in found
        if all(name == "__name__" or labels.get(name) == value for name, value in one.labels.items())
    ]
    return max(fit, key=lambda one: len(one.labels), default=None)


def _shared(own: Series | None, labels: Mapping[str, str]) -> dict[str, str]:
    return {name: labels[name] for name in (own.labels if own else ()) if name in labels}


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


async def _related(asking: _Asking, place: Place, alert: Alert) -> tuple[list[Firing], bool | None]:
    """What else fires of the same component, and whether this one does."""
    found: dict[str, Firing] = {}
    still = None
    for name in [one for one in COMPONENTS if alert.labels.get(one)][:2]:
        same = {name: alert.labels[name]}
        for one in await asking("Alertmanager", lambda same=same: firing(place, same, RELATED_BYTES)) or []:  # type: ignore[misc]
            if dict(one.labels) == dict(alert.labels):
                still = True  # that it is not there would say nothing: after a restart nothing is
            elif len(found) < RELATED:
                found.setdefault(one.fingerprint, one)
    return list(found.values()), still


async def _un_silenced(asking: _Asking, url: str, alert: Alert) -> bool:
    if url.partition(":")[0].partition("+")[0] != "alertmanager":
        return False

    async def ask() -> bool:
        return await asyncio.to_thread(alertmanager.ended_by_a_person, url, alertmanager.matchers_for(alert.labels))

    # Who can not be asked whether a person un-silenced it does not silence it either: send() asks again.
    return bool(await asking("Alertmanager", ask))
