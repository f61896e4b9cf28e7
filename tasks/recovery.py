"""Lets Prefect tell the truth about runs that died, and goes on with them; safe to kill and to run twice at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed, Scheduled
from sqlalchemy import Connection, Row, select

from tasks import channels
from tasks.errors import HoldfastError
from tasks.ledger import Ledger
from tasks.ledger.effects import confirm, on_its_own, take_back, unknown
from tasks.ledger.holders import process_of
from tasks.ledger.tables import holders
from tasks.process import is_gone, runs_here

TAG = "holdfast"  # on every deployment of prefect.yaml: runs of others are not judged
UNENDED = ["RUNNING", "PENDING", "CANCELLING"]
PAGE = 200
TRIGGER_SECONDS = 1.0  # what the crash trigger of prefect.yaml is given to start a run before another one is made
# Without a holder in the ledger, and where processes can not be seen, only time tells. A tick enters its holder within
# a second or two; a worker starts a pending run within seconds.
NEVER_SECONDS = {True: 30.0, False: 900.0}
log = logging.getLogger("holdfast.recovery")


class Death(NamedTuple):
    """A run whose process is gone."""

    why: str
    holder: str
    """The holder it worked under; empty if it died before it had one: then it is not started again."""


async def repair_runs(
    ledger: Ledger, gone: Sequence[Row[Any]] = (), *, here: bool = False, go_on: bool = True
) -> list[str]:
    """End every run in Prefect that stands as Running, Pending or Cancelling and is not alive.

    `gone` are holders that were just found dead: their runs are looked at whatever Prefect says of them. `here` says
    that all of the server's runs are processes of this machine, so that one that is not here is over.
    With `go_on`, each agent or skill that died at work is run again, once. Without it the house is being stopped and
    nothing starts any more: a run that had not begun is handed back. Returns what happened, for people.
    """
    said = []
    async with get_client() as client:
        judged = set()
        for row in gone:
            if row.flow_run and (run := await _read(client, row.flow_run)):
                judged.add(run.id)
                said.append(await _bury(client, run, Death(f"process {row.pid} is gone", row.id), go_on))
        for run in await _unended(client):
            if run.parent_task_run_id is not None or run.id in judged:
                continue  # a subflow lives in its parent's process and ends with it
            death = await _death(ledger, run, here, NEVER_SECONDS[here] if go_on or not here else 0.0)
            if death and not (go_on or death.holder) and await _hand_back(client, run.id):
                said.append(f"run {run.name!r} had not begun: it waits for the next start")
            elif death:
                said.append(await _bury(client, run, death, go_on))
        said += await _orphans(client)
    return said


async def _read(client: PrefectClient, run_id: str) -> Any:
    try:
        return await client.read_flow_run(UUID(run_id))
    except (ObjectNotFound, ValueError):
        return None


async def _unended(client: PrefectClient) -> list[Any]:
    """Every run that never ended, subflows too."""
    found: list[Any] = []
    only = FlowRunFilter.model_validate({"state": {"type": {"any_": UNENDED}}})
    while page := await client.read_flow_runs(flow_run_filter=only, limit=PAGE, offset=len(found)):
        found += page
    return found


async def _death(ledger: Ledger, run: Any, here: bool, silent: float) -> Death | None:
    """Why a run is certainly over; None if it may be alive, as one unheard of is for its first `silent` seconds."""

    def known(c: Connection) -> Sequence[Row[Any]]:
        return c.execute(select(holders).where(holders.c.flow_run == str(run.id)).order_by(holders.c.since)).all()

    for row in await ledger.read("read a run's holders", known):
        if row.ended in ("dead", "stopped") or (row.ended == "left" and is_gone(process_of(row))):
            return Death(f"process {row.pid} is gone", str(row.id))
        if row.ended in ("", "left"):
            return None  # at work, or about to report its end
    if TAG not in run.tags:
        return None
    pid = int(run.infrastructure_pid) if str(run.infrastructure_pid or "").isdigit() else 0
    if pid and runs_here(pid, str(run.id)):
        return None
    age = (datetime.now(UTC) - run.state.timestamp).total_seconds()
    # The server's clock and this one may be an hour apart, so a time from tomorrow is no proof of youth either.
    if abs(age) < silent:
        return None
    return Death("nobody has heard of its process", "")


async def _bury(client: PrefectClient, run: Any, death: Death, go_on: bool) -> str:
    """Let Prefect show a dead run and its subflows as over, and start one run in its place."""
    family = FlowRunFilter.model_validate({"parent_flow_run_id": {"any_": [run.id]}})
    for one in await client.read_flow_runs(flow_run_filter=family):
        await _end(client, one.id, death.why)
    died = await _end(client, run.id, death.why)
    said = f"{death.why}: run {run.name!r} is over"
    if not go_on or not death.holder or run.deployment_id is None:
        return said
    await asyncio.sleep(TRIGGER_SECONDS)
    if other := await _on_its_way(client, run.deployment_id, died):
        return f"{said}, run {other!r} goes on"
    # The key makes one new run out of however many observers see the same death.
    new = await client.create_flow_run_from_deployment(
        run.deployment_id, parameters=run.parameters, idempotency_key=f"after-{death.holder}", tags=["recovery"]
    )
    return f"{said}, run {new.name!r} goes on"


async def _on_its_way(client: PrefectClient, deployment: UUID, died: datetime) -> str:
    """The run of a deployment that is about to work, or began after the death; '' if the next one is only planned."""
    soon = datetime.now(UTC) + timedelta(seconds=2)
    states = {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING"]}}
    found = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment]}, "state": states})
    for one in await client.read_flow_runs(flow_run_filter=found):
        if one.state_type == StateType.RUNNING:
            # One that began before may have found the dead at work, and be about to end without having done anything.
            coming = one.start_time is not None and one.start_time > died
        else:
            coming = one.state_type == StateType.PENDING or (one.expected_start_time or soon) <= soon
        if coming:
            return str(one.name)
    return ""


async def _hand_back(client: PrefectClient, run_id: UUID) -> bool:
    """Let a run that a worker had claimed and not started be claimed again; False if it is something else."""
    run = await client.read_flow_run(run_id)
    if run.state is None or not run.state.is_pending():
        return False
    again: State[Any] = Scheduled(message="It had not begun when the house was stopped.")
    await client.set_flow_run_state(run_id, again, force=True)
    return True


async def _end(client: PrefectClient, run_id: UUID, why: str) -> datetime:
    """Show a run as over; when it ended, by the server's clock."""
    # Read again after the proof: a run that ended well in between must not be called crashed.
    run = await client.read_flow_run(run_id)
    if run.state is not None and run.state.is_final():
        return run.state.timestamp
    made = Cancelled if run.state is not None and run.state.is_cancelling() else Crashed
    over: State[Any] = made(message=f"{why[0].upper()}{why[1:]}.")
    ended = await client.set_flow_run_state(run_id, over, force=True)
    return (ended.state or over).timestamp


async def _orphans(client: PrefectClient) -> list[str]:
    """End subflows whose parent is over: they lived in its process."""
    said = []
    for run in await _unended(client):
        if run.parent_task_run_id is None:
            continue
        try:
            task = await client.read_task_run(run.parent_task_run_id)
            parent = await client.read_flow_run(task.flow_run_id) if task.flow_run_id else None
        except ObjectNotFound:
            continue
        if parent is not None and parent.state is not None and parent.state.is_final():
            await _end(client, run.id, "the run that started it is over")
            said.append(f"subflow {run.name!r} is over, as its parent is")
    return said


async def reconcile(ledger: Ledger) -> list[str]:
    """Settle effects that were on their way when their process died and that no case in hand looks after."""
    said = []
    for row in await ledger.read("look for effects on their way", on_its_own):
        what = f"{row.kind} of case {row.case}"
        back = partial(take_back, key=row.key, dispatcher=row.dispatcher)
        if not channels.can_find(row.channel) and channels.dedupes(row.channel):
            await ledger.write(f"take back {what}", partial(back, why="its process died; it counts once outside"))
            said.append(f"{what} may be out: it is sent again when the case is worked, and counts once outside")
            continue
        if not channels.can_find(row.channel):
            why = f"its process died, and {row.channel.partition(':')[0]} can not look for it"
            await ledger.write(f"mark {what}", partial(unknown, key=row.key, why=why))
            said.append(f"{what} may or may not be out: {why}")
            continue
        try:
            found = await asyncio.to_thread(channels.find, row.channel, row.key)
        except (OSError, HoldfastError) as why:
            said.append(f"{what} can not be looked for now: {why}")
            continue
        if found is None:
            await ledger.write(f"take back {what}", partial(back, why="it was not out"))
            said.append(f"{what} is not out: it is sent when the case is worked")
        else:
            receipt = found.model_copy(update={"found": True})
            await ledger.write(f"confirm {what}", partial(confirm, key=row.key, holder=row.dispatcher, receipt=receipt))
            said.append(f"{what} is out: it was found")
    return said
