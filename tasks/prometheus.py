"""Read-only questions to the Prometheus and Alertmanager of an agent, each bounded in time, points and bytes."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from tasks import web
from tasks.errors import BadInput, NotSent
from tasks.records import Record

SECONDS = 8.0  # for each answer; Prometheus is told to give up as soon
LIMIT = 8 * 1024 * 1024  # bytes of an answer
POINTS = 720  # of one series
SERIES = 200  # of one answer that are kept
LONGEST_QUERY = 5_000  # characters
FURTHEST = 31 * 86_400.0  # seconds of one range
WAY_OUT = "Write alertmanager://host:9093?prometheus=http://host:9090 as the agent's source."
TROUBLE = (NotSent, BadInput)
"""What a question may raise: nobody answers now, or the answer is of no use."""


class Monitors(NamedTuple):
    """Where the alerts of an agent come from."""

    alertmanager: web.Place
    prometheus: web.Place | None
    """None if the source names none."""


class Series(Record):
    """One time series as it was answered; times are seconds since 1970."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]


class Rule(Record):
    """One alerting rule as Prometheus has it."""

    name: str
    query: str
    labels: Mapping[str, str] = {}
    duration: float = Field(default=0.0, description="Seconds that it must hold before the alert fires.")


class Firing(Record):
    """One alert that Alertmanager shows as active: neither silenced nor inhibited."""

    fingerprint: str
    labels: Mapping[str, str]
    summary: str = ""
    starts: str = ""


class _Answered(BaseModel):
    metric: dict[str, str]
    values: list[tuple[float, float]] = []
    value: tuple[float, float] | None = None


def monitors(source: str) -> Monitors:
    """What the URL of an agent's source names; BadInput if that is no Alertmanager."""
    place = web.place_of(source, WAY_OUT, options=None)
    if place.name != "alertmanager":
        raise BadInput(f"The agent's source {place.name!r} is no Alertmanager. {WAY_OUT}")
    named = place.options.get("prometheus", "")
    return Monitors(place, web.plain_place(named, "prometheus", WAY_OUT) if named else None)


async def query_range(place: web.Place, query: str, start: float, end: float, step: float) -> list[Series]:
    """A query over a range; the step becomes longer where there would be too many points."""
    if not math.isfinite(end - start) or not 0 < end - start <= FURTHEST:
        raise BadInput(f"A range goes from an earlier time to a later one, {FURTHEST / 86_400:.0f} days at most.")
    step = max(step, (end - start) / POINTS, 1.0)
    given = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
    return await _query(place, "/api/v1/query_range", query, given)


async def query_now(place: web.Place, query: str) -> list[Series]:
    """A query at this moment: one point for each series."""
    return await _query(place, "/api/v1/query", query, {})


async def _query(place: web.Place, path: str, query: str, given: Mapping[str, str]) -> list[Series]:
    if not query.strip() or len(query) > LONGEST_QUERY:
        raise BadInput(f"A query has 1 to {LONGEST_QUERY} characters.")
    params = {"query": query, "timeout": f"{SECONDS:g}s", **given}
    data = await _data(place, path, params)
    if data.get("resultType") not in ("matrix", "vector", "scalar"):
        raise BadInput(f"The query gives a {data.get('resultType')}, which has no numbers.")
    rows = data.get("result")
    if data["resultType"] == "scalar":
        rows = [{"metric": {}, "value": rows}]
    try:
        found = [_Answered.model_validate(one) for one in list(rows or [])[:SERIES]]
    except (ValidationError, TypeError) as why:
        raise BadInput(f"{place.shown} answers with series that can not be read.") from why
    return [Series(labels=one.metric, points=_finite(one)) for one in found]


def _finite(one: _Answered) -> tuple[tuple[float, float], ...]:
    # A NaN equals nothing, itself included, so that a step which holds one could not be stored.
    points = [*one.values, *([one.value] if one.value is not None else [])]
    return tuple((at, value) for at, value in points if math.isfinite(at) and math.isfinite(value))


async def rules_of(place: web.Place, name: str) -> list[Rule]:
    """The alerting rules of this name."""
    data = await _data(place, "/api/v1/rules", {"type": "alert"})
    try:
        found = [rule for group in data["groups"] for rule in group["rules"] if rule.get("name") == name]
        return [
            Rule(name=name, query=one["query"], labels=one.get("labels") or {}, duration=one.get("duration") or 0.0)
            for one in found[:SERIES]
        ]
    except (KeyError, TypeError, AttributeError, ValidationError) as why:
        raise BadInput(f"{place.shown} shows rules that can not be read. Is it a Prometheus?") from why


async def _data(place: web.Place, path: str, params: Mapping[str, str]) -> dict[str, Any]:
    def ask() -> Any:
        return web.read_json(place, path, params=params, limit=LIMIT, seconds=SECONDS + 2)

    found = await asyncio.to_thread(ask)
    data = found.get("data") if isinstance(found, dict) and found.get("status") == "success" else None
    if not isinstance(data, dict):
        raise BadInput(f"{place.shown}{path} answers with something else. Is it a Prometheus?")
    return data


async def firing(place: web.Place, labels: Mapping[str, str], limit: int = LIMIT) -> list[Firing]:
    """The active alerts with all of these labels."""
    params = {"active": "true", "silenced": "false", "inhibited": "false", "unprocessed": "true"}
    wanted = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels.items()]

    def ask() -> Any:
        return web.read_json(place, "/api/v2/alerts", params={**params, "filter": wanted}, limit=limit, seconds=SECONDS)

    found = await asyncio.to_thread(ask)
    try:
        return [
            Firing(
                fingerprint=one["fingerprint"],
                labels=one["labels"],
                summary=str((one.get("annotations") or {}).get("summary", ""))[:300],
                starts=str(one["startsAt"]),
            )
            for one in found
        ]
    except (KeyError, TypeError, AttributeError, ValidationError) as why:
        raise BadInput(f"{place.shown} shows alerts that can not be read. Is it an Alertmanager?") from why
