"""Makes the work pool of `up`, whose runs ask the warm process first."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import httpx

from tasks.errors import BadInput
from tasks.home import PROJECT


def can_fork() -> bool:
    """Whether this system has what a warm start leans on."""
    return sys.platform == "linux" and hasattr(os, "pidfd_open")


def make_pool(name: str, socket: Path | None) -> None:
    """Enter a process pool at the server, or renew the one that is there.

    Its runs start through the warm process behind `socket`; without one they start the ordinary way, as in a pool
    that `prefect work-pool create` makes.
    """
    # Prefect reads its settings where it is first imported, so not before the house has made them.
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import PrefectException
    from prefect.workers.process import ProcessWorker

    template: dict[str, Any] = ProcessWorker.get_default_base_job_template()
    if socket is not None:
        # -S and -E: it needs no packages and no settings, and starts in half the time without them.
        command = [sys.executable, "-S", "-E", str(PROJECT / "deployments/start.py"), str(socket)]
        variables = template["variables"]["properties"]
        variables["command"]["default"] = shlex.join(command)
        variables["working_dir"]["default"] = str(PROJECT)

    async def enter() -> None:
        async with get_client() as client:
            await client.create_work_pool(
                WorkPoolCreate(name=name, type="process", base_job_template=template), overwrite=True
            )

    try:
        asyncio.run(enter())
    except (httpx.HTTPError, PrefectException) as why:
        raise BadInput(f"The work pool {name!r} could not be entered at Prefect's server: {why}") from why
