"""What the second demonstration asks of Prefect and of the ledger, and how it sets its agent to work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from deployments.alerting import Alerting
from deployments.unended import UNENDED
from tasks.errors import BadInput

AGENT = "incidents"
DEPLOYMENT = f"agent-loop/{AGENT}"
HEARTBEAT_SECONDS = 30.0  # Alertmanager rings; this is for what no ring tells of
NEEDED = ("recover",)  # the only other deployment that goes by a schedule here


async def go_live(alerting: Alerting, pager: str) -> None:
    """Let the agent act on these alerts and call people at this pager, and let all other agents rest."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleUpdate, DeploymentUpdate
    from prefect.client.schemas.schedules import IntervalSchedule

    own = {
        "source": f"{alerting.alertmanager.replace('http', 'alertmanager', 1)}?prometheus={alerting.prometheus}",
        "effects": {
            "page": f"webhook+{pager}/page",
            "note": f"webhook+{pager}/note",
            "silence": alerting.alertmanager.replace("http", "alertmanager", 1),
        },
    }
    often = IntervalSchedule(interval=timedelta(seconds=HEARTBEAT_SECONDS))
    heartbeat = [DeploymentScheduleUpdate(schedule=often, active=True, slug="heartbeat")]
    async with get_client() as client:
        entered = await client.read_deployments(limit=200)
        if AGENT not in {one.name for one in entered}:
            raise BadInput(f"prefect.yaml has no agent {AGENT!r}. Take its block from the repository again.")
        for one in entered:
            if one.name == AGENT:
                agent = {**one.parameters["agent"], **own}
                live = {**one.parameters, "agent": agent, "dry_run": False}
                await client.update_deployment(one.id, DeploymentUpdate(parameters=live, schedules=heartbeat))
                await client.create_flow_run_from_deployment(one.id)
            elif one.schedules and one.name not in NEEDED:
                await client.set_deployment_paused_state(one.id, True)


async def runs(states: dict[str, Any] | None = None, since: float = 0.0) -> list[Any]:
    """The agent's runs in these states that began since then."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter

    asked: dict[str, Any] = {"start_time": {"after_": datetime.fromtimestamp(since, UTC)}} if since else {}
    asked |= {"state": states} if states else {}
    of = DeploymentFilter.model_validate({"name": {"any_": [AGENT]}})
    async with get_client() as client:
        return await client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate(asked), deployment_filter=of, limit=200
        )


async def idle() -> bool:
    """Whether no tick is on its way any more."""
    return not await runs(UNENDED)


async def ticks_since(at: float) -> int:
    """How many ticks began after that and came to a good end."""
    return len(await runs({"type": {"any_": ["COMPLETED"]}, "name": {"not_any_": ["Skipped"]}}, at))


async def began_after(at: float) -> float | None:
    """When the first tick began after that."""
    began = [one.start_time.timestamp() for one in await runs(since=at) if one.start_time]
    return min(began, default=None)


def confirmed_silences() -> set[str]:
    """The silences that the agent knows it made, by Alertmanager's own ids."""
    from sqlalchemy import select

    from tasks.ledger import the_ledger
    from tasks.ledger.tables import effects
    from tasks.records import Receipt

    made = select(effects.c.receipt).where(effects.c.kind == "silence", effects.c.state == "confirmed")
    receipts = the_ledger().read_now("read the silences", lambda c: c.execute(made).scalars().all())
    return {Receipt.model_validate_json(one).reference for one in receipts}


def at_work() -> int | None:
    """The process of the tick that has the agent, if a case is in hand."""
    from tasks.ledger import the_ledger
    from tasks.ledger.agents import at_work as process
    from tasks.ledger.cases import counts

    def look(c: Any) -> int | None:
        return process(c, AGENT) if counts(c, AGENT).get("working") else None

    return the_ledger().read_now("find the tick's process", look)
