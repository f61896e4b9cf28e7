"""What an idle tick does by itself: milliseconds in the loop's own function, without Prefect's part."""

from __future__ import annotations

import asyncio
import functools
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from rich.console import Console

from flows.loop import agent_loop
from tasks.records import Agent
from tests.servers import prefect_server_in

TICKS = 11


def measure(folder: Path) -> list[float]:
    """Seconds of each tick but the first, which makes the ledger."""
    for part in ("new", "cur", "tmp"):
        (folder / "inbox" / part).mkdir(parents=True)
    os.environ |= {"HOLDFAST_HOME": str(folder), "HOLDFAST_LEDGER": f"sqlite:///{folder / 'ledger.db'}"}
    took, work = [], agent_loop.fn

    @functools.wraps(work)
    async def timed(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return await work(*given, **named)
        finally:
            took.append(time.perf_counter() - began)

    agent_loop.fn = timed
    agent = Agent(name="desk", source="maildir:inbox", skills=["answer_ticket"])
    with prefect_server_in(folder / "prefect") as api, temporary_settings({PREFECT_API_URL: api}):
        for _ in range(TICKS + 1):
            state = asyncio.run(agent_loop(agent, dry_run=False, return_state=True))
            assert state.name == "Idle", state
        EventsWorker.drain_all()  # for each event that is left, this process would wait 7 s for a server that is gone
    return took[1:]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="idle-", ignore_cleanup_errors=True) as folder:
        took = [1000 * one for one in measure(Path(folder))]
    found = f"{median(took):.0f} ms, worst {max(took):.0f} ms"
    Console(highlight=False).print(f"an idle tick's own work, median of {TICKS}: {found}")


if __name__ == "__main__":
    main()
