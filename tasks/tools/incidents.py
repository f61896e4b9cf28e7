"""Tools that look into an incident and change nothing: Prometheus, the alerts that fire, logs in a folder of ours."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from pathlib import Path
from typing import Annotated

from pydantic import Field

from tasks.errors import BadInput
from tasks.prometheus import Monitors, Series, firing, monitors, query_now, query_range
from tasks.records import Record
from tasks.web import Place
from tasks.working import in_hand

LOGS = "HOLDFAST_LOGS"
SHOWN_SERIES, SHOWN_POINTS, SHOWN_ALERTS = 12, 60, 60
TAIL = 2 * 1024 * 1024  # bytes at the end of a log that are looked at
LINE = 500  # characters of a line
FILES = 200


class Curve(Record):
    """A time series: each point is minutes after the alert's start, and the value."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


class Value(Record):
    """What a series is now."""

    labels: dict[str, str]
    value: float


class Active(Record):
    """An alert that fires."""

    labels: dict[str, str]
    summary: str
    starts: str


def _places() -> Monitors:
    # Only the agent's own block says whom to ask: no alert and no model can.
    return monitors(in_hand("look into an incident").work.agent.source)


def _prometheus() -> Place:
    found = _places().prometheus
    if found is None:
        raise BadInput("This agent has no Prometheus to ask.")
    return found


async def prometheus_range(
    query: str,
    minutes_before: Annotated[int, Field(ge=1, le=1440)] = 60,
    minutes_after: Annotated[int, Field(ge=0, le=120)] = 10,
) -> list[Curve]:
    """Run a PromQL query over a range of time around the start of the case's alert."""
    start = in_hand("look into an incident").work.case.arrived.timestamp()
    begin, end = start - 60 * minutes_before, min(time.time(), start + 60 * minutes_after)
    found = await query_range(_prometheus(), query, min(begin, end - 60), end, max(1.0, (end - begin) / SHOWN_POINTS))
    return [Curve(labels=dict(one.labels), points=_after(one, start)) for one in found[:SHOWN_SERIES]]


def _after(one: Series, start: float) -> list[tuple[float, float]]:
    return [(round((at - start) / 60, 2), float(f"{value:.6g}")) for at, value in one.points]


async def prometheus_now(query: str) -> list[Value]:
    """Run a PromQL query at this moment."""
    found = await query_now(_prometheus(), query)
    return [Value(labels=dict(one.labels), value=one.points[-1][1]) for one in found if one.points][: 4 * SHOWN_SERIES]


async def firing_alerts(label: str = "", value: str = "") -> list[Active]:
    """List the alerts that fire now, all of them or those with this value of a label."""
    found = await firing(_places().alertmanager, {label: value} if label else {})
    return [Active(labels=dict(one.labels), summary=one.summary, starts=one.starts) for one in found[:SHOWN_ALERTS]]


async def read_log(name: str = "", contains: str = "", lines: Annotated[int, Field(ge=1, le=200)] = 50) -> list[str]:
    """Read the last lines of a log, or the last ones that contain a text. Without a name: list the logs there are."""
    told = os.environ.get(LOGS, "")
    if not told:
        raise BadInput("This agent has no logs to read.")
    return await asyncio.to_thread(_read_log, Path(told), name, contains, lines)


def _read_log(folder: Path, name: str, contains: str, lines: int) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.is_symlink())[:FILES]
    if not name:
        return names
    if name not in names:
        raise BadInput(f"There is no log of that name. Logs: {', '.join(names)[:1000]}.")
    # It may have become a link or a pipe since it was listed.
    handle = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise BadInput("That is not a log.")
        file.seek(max(0, os.fstat(handle).st_size - TAIL))
        text = file.read(TAIL).decode("utf-8", "replace")
    return [line[:LINE] for line in text.splitlines() if contains in line][-lines:]
