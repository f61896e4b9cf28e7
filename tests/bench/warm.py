"""What an idle tick costs, from Pending to its end and in CPU, started warm and started the ordinary way."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

TICK = 1 / os.sysconf("SC_CLK_TCK")
out = Console(highlight=False, width=110)


def below(pid: int) -> list[int]:
    """A process's descendants now."""
    found = []
    for threads in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in threads.read_text().split():
                found += [int(child), *below(int(child))]
        except OSError:
            continue
    return found


def used(pid: int) -> tuple[str, float]:
    """What a process is and how many seconds of CPU it has used."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    fields = stat.rpartition(")")[2].split()
    return stat[stat.index("(") + 1 : stat.rindex(")")], (int(fields[11]) + int(fields[12])) * TICK


async def tick(roots: list[int]) -> dict[str, float]:
    """Start one tick of the idle agent and follow it, and the CPU of all that it starts, to its end."""
    from prefect.client.orchestration import get_client

    cpu: dict[int, tuple[str, float]] = {}
    async with get_client() as client:
        agent = await client.read_deployment_by_name("agent-loop/support")
        before = {pid for root in roots for pid in below(root)}
        run = await client.create_flow_run_from_deployment(agent.id)
        look = 0.0
        while True:
            living = [pid for root in roots for pid in below(root) if pid not in before]
            for pid in living:
                try:
                    cpu[pid] = used(pid)
                except OSError:
                    continue
            if not living and time.monotonic() > look:
                look = time.monotonic() + 0.2
                found = await client.read_flow_run(run.id)
                if found.state is not None and found.state.is_final():
                    break
            await asyncio.sleep(0.01)
        assert found.state.name == "Idle", found.state
        states = {one.name: one.timestamp for one in await client.read_flow_run_states(run.id)}
    seconds = (states["Idle"] - states["Pending"]).total_seconds()
    return {
        "seconds": seconds,
        "to_running": (states["Running"] - states["Pending"]).total_seconds(),
        "own_cpu": max(one for _, one in cpu.values()),
        "all_cpu": sum(one for _, one in cpu.values()),
    }


def measure(count: int, kinds: list[str]) -> dict[str, dict[str, list[float]]]:
    from deployments.pool import make_pool
    from deployments.supervisor import POOL, House, free_port

    figures: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as home:
        os.environ["HOLDFAST_HOME"] = home
        (Path(home) / "inbox/new").mkdir(parents=True)
        house = House(free_port())
        try:
            house.start_server()
            asyncio.run(_pause_schedules())
            assert house.warm and house.warm.process
            while not (Path(home) / "warm.sock").exists():
                time.sleep(0.1)
            for kind in kinds:
                if kind == "ordinary":
                    house.worker.stop()
                    make_pool(POOL, None)
                house.start_worker()
                assert house.worker.process
                roots = [house.worker.process.pid, house.warm.process.pid]
                figures[kind] = defaultdict(list)
                asyncio.run(tick(roots))  # the first one makes the ledger
                for _ in range(count):
                    for name, value in asyncio.run(tick(roots)).items():
                        figures[kind][name].append(value)
        finally:
            house.stop()
    return figures


async def _pause_schedules() -> None:
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        for one in await client.read_deployments():
            await client.pause_deployment(one.id)


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--ticks", type=int, default=10)
    parser.add_argument("--kinds", nargs="*", default=["warm", "ordinary"])
    given = parser.parse_args()
    figures: dict[str, Any] = measure(given.ticks, given.kinds)
    table = Table(title=f"An idle tick, median (worst) of {given.ticks}", title_justify="left")
    for name in ("", "Pending to Running", "Pending to end", "CPU of its own process", "CPU of all it started"):
        table.add_column(name)
    for kind, found in figures.items():
        columns = (found[name] for name in ("to_running", "seconds", "own_cpu", "all_cpu"))
        table.add_row(kind, *(f"{median(one):.2f} s ({max(one):.2f})" for one in columns))
    out.print(table)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
