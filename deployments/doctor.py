"""Looks at everything that can be wrong, and names the remedy of each finding."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml
from rich.console import Console
from sqlalchemy import Connection, Row, func, select

from deployments.enter import server
from deployments.supervisor import POOL
from tasks import channels, sources
from tasks.errors import WAITS, HoldfastError, LedgerLost
from tasks.home import PROJECT, home
from tasks.ledger import ledger_url, the_ledger
from tasks.ledger.agents import all_agents
from tasks.ledger.approvals import how_many, what_waits
from tasks.ledger.database import one_line
from tasks.ledger.effects import in_doubt
from tasks.ledger.holders import alive, process_of
from tasks.ledger.tables import cases, unsettled
from tasks.process import is_gone
from tasks.records import Agent
from tasks.waiting import moment

STUCK_SECONDS = 3600.0
CRASHES = 3
TESTED = {"prefect": "3.8", "sqlalchemy": "2.", "pydantic": "2."}


class Finding(NamedTuple):
    """One thing that was looked at; `remedy` is empty when it is well."""

    what: str
    remedy: str = ""


def examine(out: Console) -> int:
    """Print every finding. Returns 1 if something needs a hand."""
    findings: list[Finding] = []
    for look in (_versions, _disk, _ledger, _prefect):
        try:
            findings += look()
        except (HoldfastError, LedgerLost, OSError) as why:
            findings.append(Finding(look.__name__.strip("_"), str(why)))
    for one in findings:
        mark = "[red]✗[/red]" if one.remedy else "[green]✓[/green]"
        out.print(f"{mark} {one.what}", soft_wrap=True)
        if one.remedy:
            out.print(f"    {one.remedy}", soft_wrap=True, markup=False)
    return 1 if any(one.remedy for one in findings) else 0


def _versions() -> list[Finding]:
    found = [Finding(f"Python {sys.version.split()[0]}")]
    for name, tested in TESTED.items():
        try:
            here = version(name)
        except PackageNotFoundError:
            found.append(Finding(f"{name} is missing", "Run `make setup`."))
            continue
        remedy = "" if here.startswith(tested) else f"Tested with {tested}x; run `make setup` for a version that is."
        found.append(Finding(f"{name} {here}", remedy))
    return found


def _disk() -> list[Finding]:
    home().mkdir(parents=True, exist_ok=True)
    folders, found = [home()], []
    if ledger_url().startswith("sqlite:///"):
        folders.append(Path(ledger_url().removeprefix("sqlite:///").partition("?")[0]).absolute().parent)
    for folder in [one for one in dict.fromkeys(folders) if one.is_dir()]:
        free = shutil.disk_usage(folder).free
        small = free < 500 * 2**20
        remedy = f"Free space on the disk of {folder}: a full one stops all work (nothing is lost)." if small else ""
        writable = os.access(folder, os.W_OK)
        found.append(Finding(f"{free / 2**30:.1f} GiB free for {folder}", remedy))
        found.append(Finding(f"{folder} can be written", "" if writable else f"Let this user write {folder}."))
    return found


def _ledger() -> list[Finding]:
    ledger = the_ledger()
    shown = ledger.engine.url.render_as_string(hide_password=True)
    found = [Finding(f"ledger {shown}: {ledger.read_now('say its version', one_line)}")]
    if ledger_url().startswith("sqlite"):
        state = ledger.read_now("check itself", lambda c: c.exec_driver_sql("PRAGMA quick_check(1)").scalar())
        remedy = "" if state == "ok" else "Stop everything, restore the last backup of the ledger, then `up`."
        found.append(Finding(f"ledger file: {state}", remedy))
    ledger.write_now("see whether it takes writes", lambda c: None)
    found.append(Finding("ledger takes writes"))
    rows = ledger.read_now("look at its agents", all_agents)
    found += [*_sources(rows), *_channels(rows)]
    return [*found, *ledger.read_now("look at its cases", _stuck)]


def _sources(rows: list[Row[tuple[object, ...]]]) -> list[Finding]:
    """Whether what agents read can be read from here, with this environment's secrets."""
    found = []
    for row in rows:
        source = Agent.model_validate_json(str(row.settings)).source
        try:
            if said := sources.look(source):
                found.append(Finding(f"agent {row.name} reads {source}: {said}"))
        except HoldfastError as why:
            found.append(Finding(f"agent {row.name} can not read {source}", str(why)))
    return found


def _channels(rows: list[Row[tuple[object, ...]]]) -> list[Finding]:
    """Where effects go, as the agents' last ticks were told."""
    found = []
    for row in rows:
        for kind, url in Agent.model_validate_json(str(row.settings)).effects.items():
            try:
                channels.check(url)
            except HoldfastError as why:
                found.append(Finding(f"agent {row.name} can not {kind}", f"{why} It goes on by itself then."))
    return found


def _stuck(c: Connection) -> list[Finding]:
    found = []
    for agent in all_agents(c):
        if agent.paused:
            found.append(Finding(f"agent {agent.name} is paused: {agent.paused}", f"Then: resume {agent.name}"))
        if not agent.effects_on:
            found.append(Finding(f"agent {agent.name}: effects are off", f"When it is safe: switch {agent.name} on"))
        if agent.draining:
            found.append(Finding(f"agent {agent.name} is draining", "`up` lets it start again."))
    for row in alive(c):
        if is_gone(process_of(row)):
            remedy = "The next tick takes over at once; `up` starts one by itself."
            found.append(Finding(f"process {row.pid} died and still holds leases", remedy))
    if waits := how_many(c):
        oldest = f", the oldest since {moment(what_waits(c)[0].since)} UTC"
        remedy = "See: waiting. Then: permit, or deny"
        found.append(Finding(f"{waits} effect(s) wait for a person's word{oldest}", remedy))
    stuck = (cases.c.state.in_(("parked", "quarantined")), ~cases.c.reason.startswith(WAITS))
    for row in c.execute(select(cases).where(*stuck).limit(20)).all():
        remedy = f"See: why {row.id}. Then: release {row.id}"
        found.append(Finding(f"case {row.id} is {row.state}: {row.reason}", remedy))
    for row in in_doubt(c):
        if row.state == "unknown":
            remedy = f"Look outside, then: resolve {row.case} --sent (or --not-sent)"
            found.append(Finding(f"nobody can tell whether {row.kind} of case {row.case} is out: {row.why}", remedy))
    old = select(func.count()).where(
        unsettled(), cases.c.state == "open", cases.c.recorded < time.time() - STUCK_SECONDS
    )
    if waiting := c.execute(old).scalar_one():
        remedy = "Is a worker up, and does the agent's schedule run? See `why` for one of them."
        found.append(Finding(f"{waiting} case(s) wait for more than an hour", remedy))
    return found or [Finding("no stuck case, no effect in doubt")]


def _prefect() -> list[Finding]:
    api = server()
    try:
        answer = httpx.get(f"{api}/health", timeout=3)
        answer.raise_for_status()
    except httpx.HTTPError as why:
        return [Finding(f"Prefect's server at {api} does not answer ({why})", "Run `up`, or set PREFECT_API_URL.")]
    found = [Finding(f"Prefect's server at {api}")]
    if said := answer.headers.get("date"):
        apart = abs((datetime.now(UTC) - parsedate_to_datetime(said)).total_seconds())
        remedy = "Set both clocks by NTP: schedules and times in the UI are off." if apart > 30 else ""
        found.append(Finding(f"clocks are {apart:.0f} s apart", remedy))
    return found + asyncio.run(_pool())


async def _pool() -> list[Finding]:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    async with get_client() as client:
        try:
            await client.read_work_pool(POOL)
        except ObjectNotFound:
            return [
                Finding(f"no work pool {POOL!r}", f"Run `prefect work-pool create {POOL} --type process`, or `up`.")
            ]
        workers = await client.read_workers_for_work_pool(POOL)
        online = [one for one in workers if str(one.status).upper().endswith("ONLINE")]
        start = f"Run `up`, or `prefect worker start --pool {POOL}` in {PROJECT}."
        found = [Finding(f"{len(online)} worker(s) online in pool {POOL}", "" if online else start)]
        deployed = await client.read_deployments()
        names = {one.name for one in deployed}
        blocks = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
        missing = sorted({block["name"] for block in blocks} - names)
        found.append(Finding(f"deployments: {', '.join(sorted(names)) or 'none'}"))
        if missing:
            found.append(Finding(f"not deployed: {', '.join(missing)}", DEPLOY))
        found += [one for deployment in deployed if (one := await _unplanned(client, deployment))]
        return found + [one for name in sorted(names) if (one := await _crashing(client, name))]


async def _unplanned(client: Any, deployment: Any) -> Finding | None:
    """A deployment whose schedule is on and of which no run is planned: its heartbeat has stopped."""
    from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter

    if deployment.paused or not any(one.active for one in deployment.schedules):
        return None
    planned = await client.read_flow_runs(
        deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [deployment.id]}}),
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": ["SCHEDULED"]}}}),
        limit=1,
    )
    if planned:
        return None
    remedy = "Wait a minute after a start; then see the errors of `schedule_deployments` in the server's log."
    return Finding(f"no run of {deployment.name} is planned although its schedule is on", remedy)


async def _crashing(client: Any, name: str) -> Finding | None:
    """A deployment whose last runs all crashed: it dies before it can tell the ledger, as a broken import does."""
    from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    last = await client.read_flow_runs(
        deployment_filter=DeploymentFilter.model_validate({"name": {"any_": [name]}}),
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}}),
        sort=FlowRunSort.END_TIME_DESC,
        limit=CRASHES,
    )
    if len(last) < CRASHES or any(run.state_type != "CRASHED" for run in last):
        return None
    said = (last[0].state.message or "no message") if last[0].state else "no message"
    return Finding(
        f"the last {CRASHES} runs of {name} crashed: {said}", f"See the log of run {last[0].name!r} in the UI."
    )


DEPLOY = "Run `prefect --no-prompt deploy --all` in the clone."
