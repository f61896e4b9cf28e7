"""A conversation of 200 turns: what a turn costs in time and in the ledger, early and late, beside its replay."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

from anthropic import AsyncAnthropic
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from rich.console import Console
from rich.table import Table
from sqlalchemy import func, select, update

from tasks.ledger.database import Ledger, migrate
from tasks.ledger.tables import cases, outcomes, steps
from tests.claude.running import claude_server_in
from tests.conftest import arrival, fill
from tests.servers import prefect_server_in
from tests.talking import talking

TURNS, QUARTER = 200, 50
out = Console(highlight=False, width=120)


class Turn(NamedTuple):
    """One turn with its tool call."""

    seconds: float
    waited: float
    """Of the seconds: from the request's first byte to the model's answer, read. A longer talk is a longer request."""
    size: int
    """Bytes in the ledger."""


def measure(folder: Path) -> tuple[list[Turn], float]:
    """Every turn, and the seconds of replaying all of them."""
    url = f"sqlite:///{folder / 'ledger.db'}"
    ledger = Ledger(url)
    migrate(ledger)
    os.environ |= {"HOLDFAST_LEDGER": url, "PRACTICE_LOG": str(folder / "log"), "ANTHROPIC_API_KEY": "sk-test-1234"}
    text = "1 " * (TURNS - 1) + "end"
    fill(ledger, folder, [arrival(1, body=text).model_copy(update={"subject": f"turns {TURNS + 1}"})])
    waited: list[float] = []
    post = AsyncAnthropic.post

    async def timed(*given: Any, **named: Any) -> Any:
        began = time.monotonic()
        try:
            return await post(*given, **named)
        finally:
            waited.append(time.monotonic() - began)

    with (
        patch.object(AsyncAnthropic, "post", timed),
        claude_server_in(folder, brain="tests.talking:brain") as claude,
        prefect_server_in(folder / "prefect") as server,
        temporary_settings({PREFECT_API_URL: server}),
    ):
        os.environ |= {"ANTHROPIC_BASE_URL": claude.url, "PREFECT_API_URL": server}
        asyncio.run(talking(cases=[1]))
        found = select(steps.c.at, func.length(steps.c.value)).order_by(steps.c.at)
        kept = ledger.read_now("look", lambda c: c.execute(found).all())
        again = update(cases).values(state="open", holder=None)
        ledger.write_now("open it again", lambda c: c.execute(again))
        began = time.monotonic()
        asyncio.run(talking(cases=[1]))
        replayed = time.monotonic() - began
        assert len(claude.entries("message")) == TURNS, "a finished turn was asked again"
        EventsWorker.drain_all()  # for each event that is left, this process would wait 7 s for a server that is gone
    assert ledger.read_now("look", lambda c: len(c.execute(select(outcomes)).all())) == 2
    ledger.close()
    turns = [kept[number : number + 2] for number in range(0, len(kept) - 1, 2)]
    ends = [kept[0][0], *(pair[-1][0] for pair in turns)]
    spans = [ends[number + 1] - ends[number] for number in range(len(turns))]
    sizes = [sum(one[1] for one in pair) for pair in turns]
    # A span ends with a turn's tool call; the last answer concludes without one.
    return [Turn(*one) for one in zip(spans, waited, sizes, strict=False)], replayed


def quarters(values: Sequence[float]) -> list[float]:
    return [median(values[start : start + QUARTER]) for start in range(0, len(values) - QUARTER // 2, QUARTER)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="turns-", ignore_cleanup_errors=True) as folder:
        turns, replayed = measure(Path(folder))
    quiet = turns[1:]  # the first one connects
    seconds, waited = quarters([one.seconds for one in quiet]), quarters([one.waited for one in quiet])
    own, size = quarters([one.seconds - one.waited for one in quiet]), quarters([one.size for one in turns])
    table = Table(title=f"{TURNS} turns, each with a tool call of 2 kB", title_justify="left")
    for column in ("median of turns", "milliseconds", "the model's", "Holdfast's and Prefect's", "bytes in the ledger"):
        table.add_column(column)
    for number, (*times, kept) in enumerate(zip(seconds, waited, own, size, strict=True)):
        shown = (f"{one * 1000:.0f}" for one in times)
        table.add_row(f"{number * QUARTER + 1} to {(number + 1) * QUARTER}", *shown, f"{kept:.0f}")
    out.print(table)
    out.print(
        f"the last quarter's turns take {own[-1] / own[0]:.2f} times as long here as the first's, "
        f"{waited[-1] / waited[0]:.2f} times at the model, and {size[-1] / size[0]:.2f} times the bytes"
    )
    out.print(f"to replay all {TURNS} turns takes {replayed:.1f} s and no model call")
    machine = f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, SQLite"
    out.print(f"{machine}, {datetime.now(UTC):%Y-%m-%d}; the model is a fake")
    if given.json:
        found = {"seconds": seconds, "model_seconds": waited, "own_seconds": own, "bytes": size}
        given.json.write_text(json.dumps(found | {"replay_seconds": replayed}) + "\n")


if __name__ == "__main__":
    main()
