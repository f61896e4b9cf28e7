"""Runs a skill's flow in a forked process without a Prefect server: steps need a flow's context, not its API."""

from __future__ import annotations

import asyncio
import importlib
import os
import threading
import uuid
from typing import Any

# Read by Prefect on import. No server is asked for anything, and no thread of Prefect's lives when a scenario forks.
os.environ.update(
    DO_NOT_TRACK="1",
    PREFECT_API_URL="http://127.0.0.1:9/api",
    PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED="false",
    PREFECT_LOGGING_LEVEL="ERROR",
    PREFECT_LOGGING_TO_API_ENABLED="false",
    OPENBLAS_NUM_THREADS="1",
    OMP_NUM_THREADS="1",
)

import prefect.task_engine
from prefect import Flow
from prefect.client.schemas.objects import FlowRun
from prefect.context import AsyncClientContext, FlowRunContext
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultStore  # type: ignore[attr-defined]
from prefect.settings import get_current_settings
from prefect.states import Running

import tasks.lease
import tasks.ledger.database
import tasks.ledger.holders
from tests.chaos.witness import bear_witness

LEASE_SECONDS = 3.0  # shorter, and a busy disk alone makes a beat come too late
WARM = (
    "alembic.command",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "anyio._backends._asyncio",
    "tasks.channels.maildir",
    "tasks.channels.smtp",
    "tasks.ledger.migrations",
)


async def run(flow: Flow[..., Any], ids: list[int]) -> None:
    """The body of a flow under a context like that of Prefect's engine."""
    async with AsyncClientContext.get_or_create() as held:
        with FlowRunContext(
            flow=flow,
            flow_run=FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="chaos", state=Running()),
            client=held.client,
            parameters={"cases": ids},
            task_runner=flow.task_runner,
            result_store=ResultStore(result_storage=LocalFileSystem(basepath="unused")),
        ):
            await flow.fn(cases=ids)


def shorten_leases() -> None:
    """Leases, beats and time-outs in their usual proportions, thirteen times as fast."""
    for module in (tasks.ledger.holders, tasks.lease):
        module.LEASE_SECONDS = LEASE_SECONDS
        module.BEAT_SECONDS = LEASE_SECONDS / 10
        module.CONFIRM_SECONDS = LEASE_SECONDS / 4
    database = tasks.ledger.database
    database.POSTGRES = database.POSTGRES.replace("timeout=10s", "timeout=1s")


def preload() -> None:
    """Make this process a good parent: all imports done, and one thread."""
    for name in WARM:
        importlib.import_module(name)
    bear_witness()
    shorten_leases()
    # A step's states are only events. They would need a thread and, in the end, a server.
    prefect.task_engine.emit_task_run_state_change_event = lambda *_, **__: None  # type: ignore[assignment]
    # With no server named, Prefect would start one for each process and leave it behind.
    assert get_current_settings().api.url == os.environ["PREFECT_API_URL"], "Prefect was imported before this file"
    assert threading.active_count() == 1, threading.enumerate()


def run_now(flow: Flow[..., Any], ids: list[int]) -> None:
    """Run to the end, in a process of its own."""
    asyncio.run(run(flow, ids))
