"""Where level one is played: a folder, a mail sink and migrated ledgers, for all scenarios of one process."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks.ledger.database import Ledger, _opened, the_ledger
from tests.chaos.bare import run_now
from tests.chaos.each import Ground
from tests.chaos.inbox import batches, skill
from tests.chaos.oracle import Verdict
from tests.chaos.plan import Plan, plan
from tests.chaos.scene import Ledgers
from tests.chaos.sink import Sink
from tests.servers import Postgres, wait_for


def grounds(seed: int, postgres: Postgres | None, named: str, inbox: Path | None) -> Iterator[Callable[[int], Verdict]]:
    """Yields the player once; the rest cleans up."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-ground-"))
    sink = Sink(folder / "sink")
    try:
        ground = Ground(Ledgers(folder, postgres), sink, skill(named), batches(named, inbox))
        if _can_warm_up(ground):
            _warm_up(ground)
        yield lambda number: ground.play(plan(seed, number))
    finally:
        sink.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _can_warm_up(ground: Ground) -> bool:
    """Tried in a fork first: after a skill that keeps threads of its own this process could not fork any more."""
    if pid := os.fork():
        return os.waitpid(pid, 0)[1] == 0
    try:
        _warm_up(ground)
    except BaseException:
        os._exit(1)
    os._exit(0)


def _end_pools() -> None:
    """End the idle threads of thread pools; the next call, in whichever fork, starts new ones."""
    for one in [one for one in gc.get_objects() if isinstance(one, ThreadPoolExecutor)]:
        one.shutdown(wait=True)
        ThreadPoolExecutor.__init__(one, one._max_workers, one._thread_name_prefix)


def _warm_up(ground: Ground) -> None:
    """Work a batch in this very process, so that what is made on first use, a model say, is made once for all forks."""
    scene, submit, before = ground.scene(Plan(0, "each", "warm")), Ledger.submit, dict(os.environ)

    def at_once(ledger: Ledger, _: str, job: Callable[[Any], Any]) -> Future[Any]:
        promise: Future[Any] = Future()  # the writer's thread would never end, and a parent must have one thread
        with ledger.engine.connect() as connection, connection.begin():
            promise.set_result(job(connection))
        return promise

    Ledger.submit = at_once  # type: ignore[method-assign]
    try:
        os.environ |= scene.environment()
        run_now(scene.flow, scene.ids())
    finally:
        Ledger.submit = submit  # type: ignore[method-assign]
        the_ledger().close()
        _opened.cache_clear()
        os.environ.clear()
        os.environ |= before
        scene.close()
    _end_pools()
    wait_for(lambda: threading.active_count() == 1, 10, "the end of all threads before the first fork")
    gc.collect()
    gc.freeze()  # or every child would copy the pages of all objects at its first collection
