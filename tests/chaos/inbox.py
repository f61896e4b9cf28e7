"""The cases that scenarios work: made up for the suite's own skill, or read from a Maildir for a user's."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from tasks import sources
from tasks.errors import BadInput
from tasks.records import Arrival

if TYPE_CHECKING:
    from prefect import Flow

OWN = "tests.chaos.skill:chaos"
INCIDENTS = "skills.triage_incident:triage_incident"
BATCH = 4
FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def skill(named: str) -> Flow[..., None]:
    """The flow that `module:name` names."""
    from prefect import Flow  # not before bare.py has set what Prefect reads on import

    module, _, name = named.partition(":")
    found = getattr(importlib.import_module(module), name or module.rpartition(".")[2], None)
    if not isinstance(found, Flow):
        raise BadInput(f"SKILL={named} names no flow. Write it as skills.my_skill:my_skill.")
    return found


def batches(named: str, inbox: Path | None) -> list[list[Arrival]]:
    """Cases in fours; two of a conversation stay together and in order."""
    made = {OWN: _own, INCIDENTS: _alerts}.get(named, _tickets)
    found = list(_from(inbox) if inbox else made())
    first: dict[str, datetime] = {}
    for one in found:
        first[one.thread] = min(one.arrived, first.get(one.thread, one.arrived))
    found.sort(key=lambda one: (first[one.thread], one.thread))
    return [found[start : start + BATCH] for start in range(0, len(found), BATCH)]


def _own() -> Iterator[Arrival]:
    for number in range(1, 25):
        key = f"<{number}@example.com>"
        # Every other batch holds a conversation of two.
        thread = f"<{number - 1}@example.com>" if number % 8 == 2 else key
        yield Arrival(
            marker=f"file-{number}",
            key=key,
            thread=thread,
            sender=f"c{number}@example.com",
            subject=f"Question {number}",
            text=" ".join(f"word{one}" for one in range(number % 5 + 1)) * (2000 if number == 7 else 1),
            arrived=FIRST + timedelta(seconds=number),
            attributes={"message_id": key, "references": []},
        )


def _alerts() -> Iterator[Arrival]:
    """Episodes of alerts whose Alertmanager and Prometheus nobody can ask: each calls a person, once."""
    for number in range(1, 25):
        # Every other batch holds two episodes of one alert.
        fingerprint = f"{number - 1 if number % 8 == 2 else number:016x}"
        start = FIRST + timedelta(seconds=number)
        labels = {"alertname": f"Alert{number}", "severity": ("critical", "warning", "info")[number % 3]}
        yield Arrival(
            marker=f"{fingerprint}@{start.isoformat()}",
            key=f"{fingerprint}@{start.isoformat()}",
            thread=fingerprint,
            sender="",
            subject=f"Alert{number} on host {number}",
            text="It is worked slower than it fills.",
            arrived=start,
            attributes={"fingerprint": fingerprint, "labels": dict(labels), "annotations": {}, "flaps": 0},
        )


def _tickets() -> Iterator[Arrival]:
    import tempfile

    from deployments.tickets import deliver, tickets

    with tempfile.TemporaryDirectory() as folder:
        deliver(tickets(1), Path(folder))
        yield from list(_from(Path(folder)))


def _from(inbox: Path) -> Iterator[Arrival]:
    nothing = sources.Known(lambda names: set())
    yield from (one for one in sources.poll(f"maildir:{inbox.absolute()}", nothing) if isinstance(one, Arrival))
