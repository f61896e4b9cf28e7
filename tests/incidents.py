"""Cases of alerts as their source brings them, a Prometheus that remembers, and a process that triages."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import JsonValue
from sqlalchemy import select

from skills.triage_incident import triage_incident
from tasks.ledger.arrivals import record
from tasks.ledger.database import Ledger
from tasks.ledger.routing import decide
from tasks.ledger.tables import outcomes
from tasks.records import Arrival, Outcome, Signal
from tests.conftest import fill
from tests.sink import Sink

RUN = """
import asyncio, sys
from skills.triage_incident import triage_incident
from tasks.ledger.database import the_ledger
from tests.one_run import patch
the_ledger()
patch()
asyncio.run(triage_incident(cases=[int(one) for one in sys.argv[1:]]))
"""
RULES = [
    {"alert": "QueueBacklog", "expr": "queue_depth > 100", "labels": {"severity": "warning"}},
    {"alert": "BusyCpu", "expr": "cpu_busy_ratio > 0.9", "labels": {"severity": "warning"}},
    {"alert": "ErrorRatio", "expr": "error_ratio > 0.05", "labels": {"severity": "critical"}},
    {"alert": "BackupOld", "expr": "backup_age_hours > 24", "labels": {"severity": "info"}},
]


BURSTS = [(330.0, 4.0), (260.0, 3.0), (170.0, 5.0), (90.0, 4.0)]


def episode(
    alert: str,
    severity: str,
    *,
    number: int = 1,
    started: float | None = None,
    annotations: Mapping[str, str] | None = None,
    more: Mapping[str, JsonValue] | None = None,
    **labels: str,
) -> Arrival:
    """One episode of an alert, as `alertmanager:` makes a case of it; `started` is now if it is not said."""
    told = {"alertname": alert, "severity": severity, "job": "app", **labels}
    thread = f"{alert}-{'-'.join(labels.values())}"
    starts = datetime.fromtimestamp(time.time() if started is None else started, UTC)
    attributes: dict[str, JsonValue] = {"fingerprint": thread, "labels": dict(told), "starts_at": starts.isoformat()}
    attributes |= {"annotations": dict(annotations or {}), "generator_url": "", "flaps": 0} | dict(more or {})
    return Arrival(
        marker=f"{thread}@{number}",
        key=f"{thread}@{starts.isoformat()}#{number}",
        thread=thread,
        sender="",
        subject=f"{alert} {' '.join(labels.values())}",
        text=(annotations or {}).get("summary", ""),
        arrived=starts,
        attributes=attributes,
    )


def remember(folder: Path, services: Sequence[str], bursts: Sequence[tuple[float, float]] = BURSTS) -> None:
    """Give a Prometheus that is to start in `folder` six hours in which BusyCpu fired and ended by itself.

    A burst is how many minutes ago it began, and how many it took.
    """
    now = time.time()
    lines, fired = ["# TYPE cpu_busy_ratio gauge"], ["# TYPE ALERTS gauge"]
    for service in services:
        named = f'job="app",service="{service}"'
        for ago in range(21_600, 0, -30):
            high = any(0 <= began * 60 - ago < long * 60 for began, long in bursts)
            lines.append(f"cpu_busy_ratio{{{named}}} {0.97 if high else 0.4} {now - ago:.3f}")
            if high:
                told = f'alertname="BusyCpu",alertstate="firing",severity="warning",{named}'
                fired.append(f"ALERTS{{{told}}} 1 {now - ago:.3f}")
    text = folder / "past.txt"
    text.write_text("\n".join([*lines, *fired, "# EOF", ""]))
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(text), str(folder / "tsdb")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def environment(ledger_url: str, prefect_server: str, home: Path, **more: str) -> dict[str, str]:
    """What a process that triages is started with."""
    given = {"HOLDFAST_LEDGER": ledger_url, "HOLDFAST_HOME": str(home), "PREFECT_API_URL": prefect_server}
    given |= {"PRACTICE_LOG": str(home / "log"), "DO_NOT_TRACK": "1", "PREFECT_LOGGING_LEVEL": "WARNING"}
    (home / "log").touch()
    return {**os.environ, **given, **more}


class Desk(NamedTuple):
    """An incident agent with a ledger and a pager of its own."""

    ledger: Ledger
    sink: Sink
    home: Path
    prefect: str
    effects: dict[str, str]
    source: str

    def enter(self, *arrivals: Arrival, **settings: Any) -> None:
        given = {"source": self.source, "skills": ["triage_incident"], "effects": self.effects} | settings
        fill(self.ledger, self.home, list(arrivals), **given)

    def follow(self, *found: Arrival | Signal) -> None:
        """What comes at a later poll."""

        def later(c: Any) -> None:
            record(c, "desk", self.source, found)
            decide(c, range(1, 20), "triage_incident")

        self.ledger.write_now("follow", later)

    def work(self, *ids: int) -> list[Outcome]:
        asyncio.run(triage_incident(cases=list(ids or (1,))))
        return self.concluded()

    def concluded(self) -> list[Outcome]:
        rows = self.ledger.read_now("look", lambda c: c.execute(select(outcomes.c.body).order_by(outcomes.c.id)).all())
        return [Outcome.model_validate_json(row.body) for row in rows]

    def look(self, column: Any) -> list[Any]:
        return self.ledger.read_now("look", lambda c: list(c.execute(select(column)).scalars()))

    def pages(self) -> list[dict[str, Any]]:
        return self.sink.taken("page")

    def notes(self) -> list[dict[str, Any]]:
        return self.sink.taken("note")


def cited(outcome: Outcome) -> dict[str, str]:
    return {one.source: one.text for one in outcome.evidence}
