"""The demonstration: 47 tickets, the flow's process killed with SIGKILL in the middle, counted from outside."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from deployments.only_one import only_one
from deployments.supervisor import House, free_port, stopping
from deployments.tally import Tally, outgoing, tally
from deployments.tickets import deliver, tickets
from deployments.unended import under_way
from tasks.errors import BadInput
from tasks.home import PROJECT

AGENT = "support"
DEPLOYMENT = f"agent-loop/{AGENT}"
PATIENCE_SECONDS = 240.0
out = Console(highlight=False)


class Asked(NamedTuple):
    """Who read the tickets and what that cost, as the ledger booked it."""

    model: str
    calls: int
    tokens: int
    usd: float
    usd_cut_off: float
    """The most that calls may have cost which the kill cut off; not in `usd`."""


def run(folder: Path | None, seed: int, figures: Path | None, keep: bool, port: int) -> int:
    """Play it in `folder` (new if None) and print the table. Returns the exit status: 0 if nothing went wrong."""
    if folder is None:
        (PROJECT / ".holdfast").mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="demo-", dir=PROJECT / ".holdfast"))
    folder = folder.absolute()
    if (folder / "inbox").exists():
        raise BadInput(f"{folder} holds an earlier demonstration. Name a new --home, or remove it.")
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "HOLDFAST_LEDGER"):
        os.environ.pop(name, None)  # a demonstration never touches a server or a ledger of yours
    os.environ["HOLDFAST_HOME"] = str(folder)
    mails = tickets(seed)
    deliver(mails, folder / "inbox")
    with only_one():
        asked, house = stopping(), House(port or free_port())
        try:
            out.print(f"Starting Prefect's server and a worker; all state is in {folder}", soft_wrap=True)
            house.start_server()
            asyncio.run(_go_live())  # before the first heartbeat, which would only rehearse
            house.start_worker()
            out.print(f"Watch it at {house.ui}")
            result = _play(house, folder, seed, asked)
            asked_for = _asked()
            _show(result, asked_for, house.ui)
            if figures is not None:
                figures.write_text(json.dumps(result._asdict() | asked_for._asdict(), indent=2) + "\n")
            while keep and not asked:
                house.look()
                time.sleep(0.5)
        finally:
            house.stop()
    return 0 if result.good else 1


def _play(house: House, folder: Path, seed: int, asked: list[int]) -> Tally:
    count = len(list((folder / "inbox/new").iterdir()))
    kill_at = random.Random(seed).randint(5, 35)
    killed, recovered = 0.0, 0.0
    at_kill = 0
    until = time.monotonic() + PATIENCE_SECONDS
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out) as progress:
        bar = progress.add_task("tickets answered or handed over", total=count)
        looked = 0.0
        while time.monotonic() < until and not asked:
            mails = outgoing(folder)
            progress.update(bar, completed=mails)
            if not killed and mails >= kill_at and (pid := _at_work()):
                os.kill(pid, signal.SIGKILL)
                killed, at_kill = time.monotonic(), outgoing(folder)
                progress.console.print(f"[red]killed process {pid} with SIGKILL[/red] at outgoing mail {at_kill}")
            elif killed and not recovered and mails > at_kill:
                recovered = time.monotonic()
                progress.console.print(f"[green]working again[/green] after {recovered - killed:.1f} s")
            if time.monotonic() - looked > 0.25:
                looked = time.monotonic()
                for said in house.look():
                    progress.console.print(said, soft_wrap=True)
                if mails >= count and not asyncio.run(under_way()):
                    break
            time.sleep(0.002 if not killed else 0.05)
    return asyncio.run(tally(folder, killed > 0, round(recovered - killed, 2) if recovered else None))


async def _go_live() -> None:
    """Turn the rehearsal off for the demonstration's own deployment, and start the first tick now."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentUpdate

    async with get_client() as client:
        found = await client.read_deployment_by_name(DEPLOYMENT)
        parameters = {**found.parameters, "dry_run": False}
        await client.update_deployment(found.id, DeploymentUpdate(parameters=parameters))
        await client.create_flow_run_from_deployment(found.id, parameters=parameters)


def _at_work() -> int | None:
    """The process of the tick that has the agent: the heartbeat's own may have come before the one asked for."""
    from tasks.ledger import the_ledger
    from tasks.ledger.agents import at_work

    return the_ledger().read_now("find the tick's process", lambda c: at_work(c, AGENT))


def _asked() -> Asked:
    from tasks.ledger import the_ledger
    from tasks.ledger.spent import spent_between
    from tasks.model import has_key
    from tasks.prices import NANO

    rows = the_ledger().read_now("add up what the model cost", lambda c: spent_between(c, 0, time.time() + 1))
    return Asked(
        model=", ".join(sorted({one.model for one in rows})) if has_key() else "the embedded model",
        calls=sum(one.calls for one in rows),
        tokens=sum(one.input_tokens + one.output_tokens + one.cache_read for one in rows),
        usd=sum(one.spent for one in rows) / NANO,
        usd_cut_off=sum(one.unknown for one in rows) / NANO,
    )


def _show(result: Tally, asked: Asked, ui: str) -> None:
    table = Table(title="47 tickets, killed in the middle", title_justify="left", show_header=False)
    seconds = f"{result.recovery_seconds} s" if result.recovery_seconds is not None else "not killed"
    rows: list[tuple[str, Any, bool]] = [
        ("tickets in the inbox", result.tickets, result.tickets == 47),
        ("answered", result.answered, True),
        ("handed over to a person", result.handed_over, True),
        ("answered twice", result.answered_twice, result.answered_twice == 0),
        ("lost", result.lost, result.lost == 0),
        ("finished steps run again", result.steps_run_again, result.steps_run_again == 0),
        ("steps replayed from the ledger", result.steps_replayed, True),
        ("from the kill to the next mail", seconds, result.recovery_seconds is not None),
        ("runs left as Running", result.runs_left, result.runs_left == 0),
    ]
    for name, value, good in rows:
        table.add_row(name, f"[{'green' if good else 'red'}]{value}[/]")
    table.add_row("read by", asked.model)
    if asked.calls:
        more = f", at most {asked.usd_cut_off:.4f} more for calls that the kill cut off" if asked.usd_cut_off else ""
        table.add_row("calls of it", f"{asked.calls}")
        table.add_row("tokens", f"{asked.tokens:,}")
        table.add_row("USD", f"{asked.usd:.4f}{more}")
    table.add_row("UI", ui)
    out.print(table)
    for line in result.wrong:
        out.print(f"[red]{line}[/red]", soft_wrap=True)
