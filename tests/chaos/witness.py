"""A log outside of the ledger: which steps ran, which were promised as finished, and where the knife fell.

One line is one append of a few bytes, so that lines of several processes never mix and a kill loses none:
`seconds TAB pid TAB word TAB rest`, seconds of the monotonic clock that all processes of a machine share.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

LOG = "CHAOS_LOG"


class Line(NamedTuple):
    """`run` a step begins, `done` it returned, `kept` its result was promised as safe, `cut` a doorway kills."""

    at: float
    pid: int
    word: str
    rest: str


def say(word: str, rest: str) -> None:
    handle = os.open(os.environ[LOG], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    try:
        os.write(handle, f"{time.monotonic():.4f}\t{os.getpid()}\t{word}\t{rest}\n".encode())
    finally:
        os.close(handle)


def heard(text: str) -> list[Line]:
    """The log's lines in the order in which they were written."""
    parts = (line.split("\t", 3) for line in text.splitlines())
    return [Line(float(at), int(pid), word, rest) for at, pid, word, rest in parts]


def bear_witness() -> None:
    """Patch the step store of this process, so that every step of any skill leaves its lines."""
    from tasks import store
    from tasks.ledger.database import Ledger

    stored, store_step, submit = store._stored, store.store_step, Ledger.submit
    written = threading.local()

    def witnessed(fn: Callable[..., Any]) -> Any:
        @functools.wraps(fn)
        async def seen(*args: Any, **kwargs: Any) -> Any:
            running = store._RUNNING.get()
            if running is None:
                return await fn(*args, **kwargs)
            about = f"{running.hand.work.fence} {running.key}"
            say("run", about)
            result = await fn(*args, **kwargs)
            say("done", about)
            return result

        return stored(seen)

    def storing(c: Any, work: Any, key: str, *rest: Any) -> Any:
        kept = store_step(c, work, key, *rest)
        written.key = f"{work.fence} {key}"
        return kept

    def submitting(self: Any, doing: str, job: Callable[[Any], Any]) -> Future[Any]:
        if not doing.startswith("store step"):
            return submit(self, doing, job)
        mine: list[str] = []

        def noting(c: Any) -> Any:
            value = job(c)
            mine[:] = [written.key]
            return value

        promise = submit(self, doing, noting)
        # Said before anybody who waits for the promise can hear of it, unless the process dies right here.
        promise.add_done_callback(lambda done: None if done.exception() else say("kept", mine[0]))
        return promise

    store._stored, store.store_step = witnessed, storing  # type: ignore[assignment]
    Ledger.submit = submitting  # type: ignore[method-assign]
