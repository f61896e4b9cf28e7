"""When a model may be asked: after the rest that its server wants, and when a call of this process has made room."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from weakref import WeakKeyDictionary

from tasks.errors import NotNow

PATIENCE_SECONDS = 20.0  # a longer wait gives the case's place in the batch to another
LONGEST_SECONDS = 3600.0  # a server that asks for more is asked again after this

shut_until: dict[str, float] = {}
"""By model: the monotonic moment until which its server asked everybody in this process to wait."""

# A condition belongs to an event loop, and goes with it.
_ended: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Condition] = WeakKeyDictionary()


def rest(model: str, seconds: float) -> float:
    """Let nobody in this process ask a model for so long; how long that is at most."""
    seconds = min(seconds, LONGEST_SECONDS)
    if seconds:
        shut_until[model] = max(shut_until.get(model, 0.0), time.monotonic() + seconds)
    return seconds


async def rested(model: str) -> None:
    """Keep to what a server asked for, a little apart from the others who wait for it too."""
    left = shut_until.get(model, 0.0) - time.monotonic()
    if left > PATIENCE_SECONDS:
        raise NotNow(f"{model} asked for {left:.0f} s of rest", left)
    if left > 0:
        await asyncio.sleep(left * random.uniform(1.0, 1.3))  # noqa: S311 (no secret)


async def room_made(least: float, most: float) -> None:
    """Wait until a call of this process ended, or so many seconds: others may make room too."""
    async with (condition := _condition()):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(condition.wait(), random.uniform(least, most))  # noqa: S311 (no secret)


async def call_ended() -> None:
    """Let those look who wait for room."""
    async with (condition := _condition()):
        # Not all of them: each writes to the ledger to see whether there is room for it.
        condition.notify(2)


def _condition() -> asyncio.Condition:
    return _ended.setdefault(asyncio.get_running_loop(), asyncio.Condition())
