"""Simulated machines with processes that run the real code, moved one door at a time; tells its story as it goes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import flows.loop
import skills
import tasks.recovery
from tasks.ledger.agents import release_agent, take_agent
from tasks.ledger.arrivals import record
from tasks.ledger.database import Job
from tasks.ledger.routing import decide
from tests.simulation.database import Database, SimLedger
from tests.simulation.judge import Judge
from tests.simulation.outside import AGENT, STAGE, Outside, work
from tests.simulation.virtual import Door, Proc

EPOCH = 1_800_000_000.0
DOOR_SECONDS = 0.02
SOON = 25  # doors: who works on until there is nothing left leaves no story to tell
LONG = 2000  # doors after which a process that is left alone must have ended


@dataclass
class Machine:
    """A machine with its two clocks; `booted` is the true time at which its monotonic clock stood at zero."""

    name: str
    boot: str = "boot-1"
    booted: float = -1000.0
    jumped: float = 0.0
    cut: bool = False

    world: Any = None

    def monotonic(self) -> float:
        return float(self.world.now - self.booted)

    def wall(self) -> float:
        return float(EPOCH + self.world.now + self.jumped)


_FIRST: dict[int, dict[str, list[tuple[object, ...]]]] = {}  # what every story begins with


@functools.cache
def the_store() -> Database:
    return Database()


class World:
    """One story: rules call its methods, each of which does nothing when it makes no sense now."""

    def __init__(self, mails: int = 3) -> None:
        self.now = 0.0
        self.current: Proc | None = None
        self.story: list[str] = [f"({mails} case{'s' * (mails > 1)})"]
        self.store = the_store()
        self.store.empty()
        self.database = self.store.raw
        self.machines = [Machine("m1", world=self), Machine("m2", world=self)]
        self.processes: list[Proc] = []
        self.shots = 0
        STAGE.world = self
        self.outside, self.judge = Outside(self, mails), Judge(self)
        if mails not in _FIRST:
            self._first_tick()
            _FIRST[mails] = self.store.rows()
        else:
            self.store.fill(_FIRST[mails])
        self.judge.look()

    def _first_tick(self) -> None:
        def enter(c: Any) -> None:
            take_agent(c, AGENT, False, "first")
            record(c, "desk", AGENT.source, self.outside.mails)
            decide(c, range(1, len(self.outside.mails) + 1), "practice")
            release_agent(c, "desk", "first")

        self.by_hand(enter)

    # What the replaced parts ask of the world.

    def named(self, func: Any) -> str:
        inner = func.args[0] if isinstance(func, functools.partial) and func.args else func
        if getattr(inner, "__name__", "") == "read_now":
            return f"read: {func.args[1]}"
        return "a call begins"

    def changes(self) -> int:
        return self.database.total_changes

    def by_holder(self, holder: str) -> Proc:
        return next(one for one in self.processes if one.holder == holder)

    def shot(self, victim: Proc) -> None:
        self.judge.shot(victim)
        self.note(f"{victim.name} is killed by {self.current.name if self.current else 'a person'}")
        victim.state = "dead"

    def by_hand(self, job: Job[Any]) -> Any:
        """A write of a person or of the test, at once."""
        with self.store.transaction() as connection:
            return job(connection)

    # The story.

    def tell(self, line: str) -> None:
        self.story.append(line)

    def note(self, line: str) -> None:
        self.story.append(f"     {line}")

    def told(self) -> str:
        lines, number = [], 0
        for line in self.story:
            if not line.startswith((" ", "(")):
                number += 1
                line = f"{number:3}. {line}"
            lines.append(line)
        return "\n".join(lines)

    def pick(self, which: int, *states: str) -> Proc | None:
        found = [one for one in self.processes if one.state in states]
        return found[which % len(found)] if found else None

    def where(self, process: Proc) -> str:
        return f"{process.name} on {process.machine.name}"

    # Processes.

    def spawn(self, machine: Machine, what: str, main: Callable[[Proc], Coroutine[Any, Any, Any]]) -> Proc:
        number = len(self.processes) + 1
        taken = {one.pid for one in self.processes if one.exists and one.machine is machine}
        pid = next(pid for pid in range(1, 99) if pid not in taken)  # pids are given again as soon as they are free
        process = Proc(self, machine, number, pid, f"s{number}", what)
        process.holder = f"holder-{number}"
        process.ledger = SimLedger(self, process)
        self.processes.append(process)
        process.begin(lambda: main(process))
        self.settle_down(process)
        return process

    def start(self, machine: int, what: str) -> None:
        if sum(one.state == "runs" for one in self.processes) >= 3:
            return
        place = self.machines[machine]
        mains: dict[str, Callable[[Proc], Coroutine[Any, Any, Any]]] = {
            "a tick": lambda _: flows.loop.agent_loop.fn(AGENT, False),
            "a rehearsal": lambda _: flows.loop.agent_loop.fn(AGENT, True),
            "a run of the skill": lambda _: skills.each(list(range(1, len(self.outside.mails) + 1)), work),
            "a look around": lambda _: skills.each([], work),
            "a recovery": lambda process: tasks.recovery.reconcile(process.ledger),
        }
        self.tell(f"p{len(self.processes) + 1} starts on {place.name}: {what}")
        self.spawn(place, what, mains[what])

    def settle_down(self, process: Proc) -> None:
        """What follows from a step by itself: time goes on a little, and the judge looks."""
        if process.state == "ended":
            process.doors.clear()
            if process.failed is not None:
                self.judge.crashed_with(process, process.failed)
                self.note(f"{process.name} ends: {process.failed}"[:150])
            process.state = "gone"
        self.judge.look()

    def doors(self, process: Proc) -> list[Door]:
        """Doors that can be opened now: a process commits its writes in the order in which it asked for them."""
        writes = [door for door in process.doors if door.label.startswith("write")]
        return [door for door in process.doors if door not in writes[1:]]

    def step(self, process: Proc, which: int = 0, fault: str = "") -> bool:
        """Open one door of a process, or let time pass until it wakes up; False when it waits for nothing."""
        if doors := self.doors(process):
            door = doors[which % len(doors)]
            process.open(door, fault if fault in door.faults else "")
            self.settle_down(process)
            self.advance(DOOR_SECONDS)
        elif (when := process.next_timer()) is not None:
            self.advance(max(when - self.now, 0.0))
        else:
            return False
        return True

    def advance(self, seconds: float) -> None:
        """Let time pass; every process that is awake does what it had set an alarm for."""
        target = self.now + seconds
        while True:
            due = [
                (when, one.number, one)
                for one in self.processes
                if one.state == "runs" and (when := one.next_timer()) is not None
            ]
            if not due or min(due)[0] > target:
                break
            when, _, process = min(due)
            self.now = max(self.now, when)
            process.wake(self.now)
            self.settle_down(process)
        self.now = target

    def run(self, process: Proc, doors: int = LONG) -> None:
        while doors and process.state == "runs" and self.step(process):
            doors -= 1

    def run_until(self, process: Proc, doorway: str) -> str:
        """Let a process work until it stands before such a door; returns which, or '' if none came soon."""
        for _ in range(SOON):
            if process.state != "runs":
                return ""
            found = [door for door in self.doors(process) if doorway in door.label and not door.fired]
            if found:
                process.doors.remove(found[0])
                process.doors.insert(0, found[0])
                return found[0].label
            if not self.step(process):
                return ""
        return ""

    def bury(self) -> None:
        """The story is over."""
        for process in self.processes:
            process.bury()
