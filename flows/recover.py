"""Finds what died while nobody watched, lets ledger and Prefect say so, and goes on with it."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Completed

from tasks.lease import holding
from tasks.ledger import the_ledger
from tasks.ledger.approvals import run_out
from tasks.ledger.holders import forget_old
from tasks.recovery import reconcile, repair_runs

KEPT_DAYS = 30.0  # ended holders: as long as Prefect keeps the runs they belong to


@flow(name="recover", version="1", flow_run_name="look for the dead")
async def recover() -> State[Any]:
    """Take cases from dead processes, end runs that only seem to run, settle effects that were on their way.

    Effects that nobody spoke of in time are denied, or their case comes back to tell people once more.
    Ends as Completed with what it did, or as Idle. Nothing that is alive is touched; two at once do nothing twice.
    """
    log, ledger, context = get_run_logger(), the_ledger(), FlowRunContext.get()
    flow_run = str(context.flow_run.id) if context and context.flow_run else ""
    async with holding(ledger, flow_run) as lease:
        said = await repair_runs(ledger, lease.taken_from)
        said += await reconcile(ledger)
        said += await ledger.write("see what nobody spoke of", run_out)
        await ledger.write("forget old holders", lambda c: forget_old(c, KEPT_DAYS))
    for one in said:
        log.warning(one)
    if not said:
        return Completed(name="Idle", message="Everything that runs is alive.")
    return Completed(message="; ".join(said)[:2000])
