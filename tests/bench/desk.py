"""One tick of the support agent on the inbox in HOLDFAST_HOME; with PLAIN=1 the provider is asked to cache nothing."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from flows.loop import agent_loop
from tasks import claude
from tasks.records import Agent
from tests.one_tick import DESK


def cache_nothing() -> None:
    """Take the marks for the provider's cache out of every request, right before it is made."""
    respond = claude.respond

    async def plainly(step: str, key: str, max_tokens: int, request: Mapping[str, Any]) -> claude.Reply:
        unmarked = [
            {name: value for name, value in block.items() if name != "cache_control"} for block in request["system"]
        ]
        return await respond(step, key, max_tokens, {**request, "system": unmarked})

    claude.respond = plainly


def main() -> None:
    if os.environ.get("PLAIN"):
        cache_nothing()
    asyncio.run(agent_loop(Agent.model_validate(DESK), dry_run=False))


if __name__ == "__main__":
    main()
