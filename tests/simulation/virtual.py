"""A process whose event loop, threads and ledger writes move only when the scheduler opens a door."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

if TYPE_CHECKING:
    from tests.simulation.world import Machine, World


@dataclass
class Door:
    """A point where the scheduler may act: `fire` changes the world, `answer` lets the process hear of it."""

    label: str
    fire: Callable[[str], None]
    answer: Callable[[], None]
    faults: tuple[str, ...] = ()
    fired: bool = False


class Call:
    """A blocking call in a thread of the process: a greenlet that stops at every inner door."""

    def __init__(self, process: Proc, label: str, func: Callable[[], Any], done: Callable[[Any, Any], None]) -> None:
        self.process, self.done = process, done
        self.thread = greenlet(lambda: self._run(func))
        self.inner: Door | None = None
        self.result: tuple[Any, BaseException | None] | None = None
        process.doors.append(Door(label, self._start, self._hear))

    def _run(self, func: Callable[[], Any]) -> None:
        try:
            self.result = (func(), None)
        except BaseException as why:  # also a Halt, which the loop hands on as a thread would
            self.result = (None, why)

    def _start(self, _: str) -> None:
        self.process.threads.append(self.thread)
        self.inner = self.thread.switch()

    def _resume(self) -> None:
        self.inner = self.thread.switch()
        self._hear()

    def _hear(self) -> None:
        if self.result is not None:
            self.process.threads.remove(self.thread)
            self.done(*self.result)
            return
        inner = self.inner
        assert inner is not None
        inner.answer = self._resume
        self.process.doors.append(inner)


def stop_at(door: Door) -> None:
    """Called inside a greenlet: hand a door to the scheduler and wait until it is open."""
    getcurrent().parent.switch(door)


@dataclass
class Proc:
    """A simulated operating-system process."""

    world: World
    machine: Machine
    number: int
    pid: int
    started: str
    what: str
    state: str = "runs"  # runs, frozen, ended, dead
    doors: list[Door] = field(default_factory=list)
    threads: list[greenlet] = field(default_factory=list)
    sleepers: list[tuple[float, greenlet]] = field(default_factory=list)
    holder: str = ""
    failed: BaseException | None = None

    def __post_init__(self) -> None:
        self.loop = Loop(self)
        self.context = contextvars.Context()

    @property
    def name(self) -> str:
        return f"p{self.number}"

    @property
    def exists(self) -> bool:
        return self.state in ("runs", "frozen")

    def begin(self, main: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Start the process and let it run to its first door."""
        self.main = self.context.run(self.loop.create_task, main())
        self.main.add_done_callback(self._ended)
        self.run_ready()

    def _ended(self, main: asyncio.Task[Any]) -> None:
        if self.exists:
            self.state = "ended"
            self.failed = None if main.cancelled() else main.exception()

    def run_ready(self) -> None:
        """Let the event loop run until everything in it waits for a door or a timer."""
        world, before, outer = self.world, self.world.current, events._get_running_loop()
        world.current = self
        events._set_running_loop(self.loop)
        try:
            ready = self.loop.ready
            while ready and self.state == "runs":
                handle = ready.popleft()
                if not handle._cancelled:
                    handle._run()
        finally:
            events._set_running_loop(outer)
            world.current = before

    def open(self, door: Door, fault: str = "", hear: bool = True) -> None:
        """Fire a door, and unless the process is cut down first, let it hear of that."""
        self.world.current = self
        try:
            if not door.fired:
                door.fired = True
                door.fire(fault)
            if hear and self.state == "runs":
                self.doors.remove(door)
                door.answer()
        finally:
            self.world.current = None
        if hear and self.state == "runs":
            self.run_ready()

    def next_timer(self) -> float | None:
        """True time of the next thing this process wakes up for."""
        timers = self.loop.timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        mine = [timers[0][0]] if timers else []
        mine += [wake for wake, _ in self.sleepers]
        return min(mine, default=None)

    def wake(self, now: float) -> None:
        """Fire what is due."""
        self.world.current = self
        try:
            for one in [one for one in self.sleepers if one[0] <= now]:
                self.sleepers.remove(one)
                one[1].switch()
        finally:
            self.world.current = None
        timers = self.loop.timers
        while timers and timers[0][0] <= now:
            handle = heapq.heappop(timers)[2]
            if not handle._cancelled:
                self.loop.ready.append(handle)
        self.run_ready()

    def bury(self) -> None:
        """Free what a dead process left behind, at the end of the story; nothing of it reaches the world."""
        if self.exists:
            self.state = "dead"
        self.loop.ready.clear()
        for task in list(self.loop.tasks):
            if not task.done():
                task._log_destroy_pending = False
                try:
                    task.get_coro().close()
                except BaseException:
                    continue
        for thread in [*self.threads, *(one for _, one in self.sleepers)]:
            if thread and not thread.dead:
                thread.throw()


class Loop(asyncio.AbstractEventLoop):
    """As much of an event loop as asyncio's tasks, timeouts and threads need."""

    def __init__(self, process: Proc) -> None:
        self.process = process
        self.ready: deque[asyncio.Handle] = deque()
        self.timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self._numbers = 0

    def time(self) -> float:
        return self.process.machine.monotonic()

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self.tasks.append(task)
        return task

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._numbers += 1
        heapq.heappush(self.timers, (when + self.process.machine.booted, self._numbers, handle))
        return handle

    def _timer_handle_cancelled(self, _: asyncio.TimerHandle) -> None:
        return None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        return None  # a destroyed task of a dead process

    def run_in_executor(self, _: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        promise = self.create_future()

        def done(result: Any, why: BaseException | None) -> None:
            if promise.cancelled():
                return
            promise.set_exception(why) if why is not None else promise.set_result(result)

        Call(self.process, self.process.world.named(func), lambda: func(*args), done)
        return promise


class Stop:
    """Stands in for threading.Event in the lease's thread."""

    def __init__(self, world: World) -> None:
        self.world, self.process, self._set = world, world.current, False

    def set(self) -> None:
        self._set = True

    def wait(self, seconds: float) -> bool:
        process = self.process
        assert process is not None
        process.sleepers.append((self.world.now + seconds, getcurrent()))
        getcurrent().parent.switch()
        return self._set


class Thread:
    """Stands in for threading.Thread in the lease: a greenlet that the virtual clock wakes."""

    def __init__(self, target: Callable[[], None], **_: Any) -> None:
        self._thread = greenlet(target)

    def start(self) -> None:
        self._thread.switch()


def promised(door: Door, doing: Callable[[], Any]) -> Future[Any]:
    """The future of a write that the door commits; a promise that was cancelled before is not kept."""
    promise: Future[Any] = Future()
    kept: list[Any] = []

    def fire(fault: str) -> None:
        if not promise.set_running_or_notify_cancel():
            kept.append(lambda: None)
            return
        try:
            value = doing(fault)
        except BaseException as why:
            error = why
            kept.append(lambda: promise.set_exception(error))
        else:
            kept.append(lambda: promise.set_result(value))

    door.fire, door.answer = fire, lambda: kept[0]()
    return promise
