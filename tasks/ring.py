"""Starts a tick of an agent at once because something came, and one for all that comes before it begins."""

from __future__ import annotations

import logging
import time
from typing import Literal, NamedTuple
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import ObjectNotFound

from tasks.ledger import Ledger
from tasks.ledger.agents import rang

TAG = "ring"
SECONDS = 60  # between two runs that are made for rings while none of them takes its turn
log = logging.getLogger("holdfast.ring")


class Rung(NamedTuple):
    """What a ring came to."""

    what: Literal["starts", "follows", "unknown", "paused"]
    text: str


async def ring(ledger: Ledger, deployment: str) -> Rung:
    """Let the agent of a deployment look at its source; nothing of what came is handed on.

    Raises httpx.HTTPError where Prefect's server does not answer, LedgerLost where the ledger does not.
    """
    async with get_client() as client:
        try:
            found = await client.read_deployment_by_name(f"agent-loop/{deployment}")
        except ObjectNotFound:
            return Rung("unknown", f"No agent {deployment!r} is deployed here.")
        if found.paused:
            return Rung("paused", f"The deployment {deployment!r} is paused, so nothing was started.")
        given = found.parameters.get("agent")
        agent = str((given.get("name") if isinstance(given, dict) else "") or deployment)
        number = await ledger.write(f"ring {agent}", lambda c: rang(c, agent))
        if number is None:
            return Rung("follows", f"{agent} is at work; one more tick follows.")
        return Rung("starts", f"{agent}: run {await _start(client, found.id, agent, number)!r} sees to it.")


async def ring_again(agent: str, number: int, deployment: str | None) -> None:
    """Start the tick that follows one during which something rang. Should that fail, the heartbeat comes anyway."""
    if not deployment:
        return
    try:
        async with get_client() as client:
            await _start(client, UUID(deployment), agent, number)
    except (httpx.HTTPError, ObjectNotFound) as why:
        log.warning("Something rang, and no tick could be started for it (%s): the heartbeat will.", why)


async def _start(client: PrefectClient, deployment: UUID, agent: str, number: int) -> str:
    # The number of the last tick makes one run of however many rings come before the next one takes its turn.
    key = f"ring/{agent}/{number}"
    run = await client.create_flow_run_from_deployment(deployment, idempotency_key=key, tags=[TAG])
    if run.state is not None and run.state.is_final():
        # It ended without a turn: crashed at its start, cancelled, skipped; or it is of another ledger.
        key = f"{key}/{int(time.time() // SECONDS)}"
        run = await client.create_flow_run_from_deployment(deployment, idempotency_key=key, tags=[TAG])
    return str(run.name)
