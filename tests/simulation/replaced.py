"""What is replaced around the real code: clocks, process table, threads, Prefect's context, sources and channels."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import flows.loop
import skills
import tasks.channels
import tasks.lease
import tasks.process
import tasks.recovery
import tasks.store
from tests.simulation.outside import RUNNING, STAGE, work
from tests.simulation.virtual import Proc, Stop, Thread


def _machine() -> Any:
    process = STAGE.world.current
    return process.machine if process is not None else STAGE.world.machines[0]


class Clock:
    """Stands in for the module `time`: the clocks of the machine whose code runs now."""

    def time(self) -> float:
        return _machine().wall()

    def monotonic(self) -> float:
        return _machine().monotonic()

    def sleep(self, seconds: float) -> None:
        raise AssertionError("blocking sleep in a simulated process")


def _on_this_machine(pid: int) -> Proc | None:
    machine = _machine()
    found = [one for one in STAGE.world.processes if one.machine is machine and one.pid == pid and one.exists]
    return found[0] if found else None


class Kernel:
    """Stands in for `os`, `signal` and `select` under tasks.process: processes that are only simulated."""

    SIGKILL = 9

    def getpid(self) -> int:
        process = STAGE.world.current
        return process.pid if process is not None else 0

    def pidfd_open(self, pid: int) -> Proc:
        if (found := _on_this_machine(pid)) is None:
            raise ProcessLookupError(pid)
        return found

    def pidfd_send_signal(self, handle: Proc, _: int) -> None:
        STAGE.world.shot(handle)

    def select(self, *_: Any) -> None:
        return None

    def close(self, _: Proc) -> None:
        return None


def _started(pid: int) -> str:
    found = _on_this_machine(pid)
    return found.started if found is not None else ""


def _here() -> tuple[str, str, str]:
    return _machine().name, _machine().boot, "1"


def _flow(*_: str) -> Any:
    async def run(cases: list[int]) -> None:
        await skills.each(cases, work)

    return SimpleNamespace(version="1", with_options=lambda **_: run)


async def _shown(*_: Any) -> None:
    return None


def _silent() -> logging.Logger:
    return logging.getLogger("holdfast.simulated")


class _Outside:
    """Whatever is asked of a source or a channel goes to the world of the story."""

    def __getattr__(self, name: str) -> Any:
        return getattr(STAGE.world.outside, name)


def _the_ledger() -> Any:
    return STAGE.world.current.ledger


def _holder() -> str:
    process = STAGE.world.current
    return process.holder


def _ours() -> list[ModuleType]:
    return [
        module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in ("tasks", "skills", "flows") and getattr(module, "time", None) is time
    ]


@contextlib.contextmanager
def replaced() -> Iterator[None]:
    """All of it, for as long as stories are played."""
    kernel = Kernel()
    no_refresh = SimpleNamespace(tasks=SimpleNamespace(refresh_cache=False))
    new: list[tuple[Any, str, Any]] = [(module, "time", Clock()) for module in _ours()]
    new += [(tasks.process, name, kernel) for name in ("os", "signal", "select")]
    new += [
        (tasks.process, "_here", _here),
        (tasks.process, "_started", _started),
        (tasks.lease, "threading", SimpleNamespace(Thread=Thread, Event=lambda: Stop(STAGE.world))),
        (tasks.lease, "uuid", SimpleNamespace(uuid4=_holder)),
        (tasks.channels, "_channel", lambda url: STAGE.world.outside.channel(url)),
        (tasks.store, "TaskRunContext", RUNNING),
        (tasks.store, "get_current_settings", lambda: no_refresh),
        (skills, "the_ledger", _the_ledger),
        (skills, "skill_in_hand", lambda: ("practice", "1", "")),
        (skills, "get_run_logger", _silent),
        (flows.loop, "the_ledger", _the_ledger),
        (flows.loop, "get_run_logger", _silent),
        (flows.loop, "skill_flow", _flow),
        (flows.loop, "catalogue", lambda: {"practice": None}),
        (flows.loop, "describe", lambda name: name),
        (flows.loop, "sources", _Outside()),
        (flows.loop, "show_tick", _shown),
        (sys, "unraisablehook", lambda _: None),
    ]
    with contextlib.ExitStack() as stack:
        for place, name, value in new:
            stack.enter_context(patch.object(place, name, value))
        level = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        stack.callback(logging.disable, level)
        yield
