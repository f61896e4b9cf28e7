"""What scenario number N of a seed is: a pure function, so that a seed and a number tell everything."""

from __future__ import annotations

import random
from dataclasses import dataclass

WRITES = ("register", "look for the dead", "begin", "store step", "intend", "dispatch", "confirm", "settle", "leave")
SEND = ("before:send", "inside:send", "after:send")
DOORS = tuple(f"{side}:{name}" for name in WRITES for side in ("before", "inside", "after")) + SEND
IN_DOUBT = ("after:dispatch", *SEND, "before:confirm", "inside:confirm")
ON_THE_WAY_BACK = (
    *(one for one in DOORS if one.partition(":")[2] in ("look for the dead", "begin", "dispatch", "confirm", "send")),
    "before:find",
    "after:find",
)
SAID_UNKNOWN = ("before:mark", "inside:mark", "after:mark", "before:park", "inside:park", "after:park")
FROZEN = (
    "after:register",
    "before:store step",
    "inside:store step",
    "after:store step",
    "inside:intend",
    "after:dispatch",
    "inside:dispatch",
    *SEND,
    "before:confirm",
    "inside:confirm",
    "inside:settle",
    "before:leave",
)
ELSEWHERE = tuple(one for one in FROZEN if not one.startswith("inside") or one == "inside:send")
OFTEN = {"store step": 12, "intend": 4, "dispatch": 4, "send": 4, "confirm": 4, "begin": 3, "settle": 3}
STACK = ("flow", "all", "worker, flow", "server", "freeze", "database", "server, flow", "worker", "warm")
STACK += ("flow", "flow")  # what dies most


@dataclass(frozen=True)
class Plan:
    """One scenario. `doors` is one door for each process that is killed or frozen, one after the other."""

    number: int
    level: str  # each: forked processes without a server; stack: a whole house
    kind: str
    doors: tuple[str, ...] = ()
    channel: str = "maildir"
    concurrency: int = 2
    batch: int = 0
    moments: tuple[float, ...] = ()  # seconds or shares, as the kind needs them

    def __str__(self) -> str:
        told = [self.kind, *self.doors, self.channel, f"{self.concurrency} at once", f"batch {self.batch}"]
        return ", ".join([*told, *(f"{one:.3f}" for one in self.moments)])


def _catalogue() -> list[tuple[str, tuple[str, ...], str]]:
    """Every doorway at least once, before chance takes over: kind, doors, channel ('' for any)."""
    found: list[tuple[str, tuple[str, ...], str]] = [("doorway", (one,), "") for one in DOORS]
    found += [("recovery", ("", one), "") for one in ON_THE_WAY_BACK]
    found += [("recovery", ("", one), "smtp") for one in SAID_UNKNOWN]
    found += [("freeze", (one,), "") for one in FROZEN]
    found += [(kind, (), "") for kind in ("random", "watch", "row", "crowd", "pause", "sync", "sever") for _ in (1, 2)]
    return found + [("elsewhere", (one,), "") for one in ELSEWHERE[:2]]


CATALOGUE = _catalogue()
CHANCE = {
    "doorway": 30,
    "recovery": 18,
    "row": 12,
    "random": 12,
    "watch": 6,
    "freeze": 6,
    "pause": 3,
    "crowd": 5,
    "sync": 5,
    "sever": 3,
    "elsewhere": 2,
}


def plan(seed: int, number: int) -> Plan:
    """Scenario `number`, counted from 1; every tenth kills a part of a whole house."""
    dice = random.Random(f"{seed}:{number}")
    batch = dice.randrange(1_000_000)
    if number % 10 == 0:
        turn = number // 10 - 1
        kind = STACK[turn] if turn < len(STACK) else dice.choice(STACK)
        return Plan(number, "stack", kind, batch=batch, moments=tuple(dice.random() for _ in range(2)))
    index = number - 1 - number // 10
    if index < len(CATALOGUE):
        kind, doors, channel = CATALOGUE[index]
    else:
        kind = dice.choices([*CHANCE], [*CHANCE.values()])[0]
        doors, channel = _doors(dice, kind), ""
    if kind == "recovery" and not doors[0]:
        first = IN_DOUBT[:4] if doors[1] in SAID_UNKNOWN or doors[1].startswith(("before:find", "after:find")) else None
        doors = (dice.choice(first or IN_DOUBT), doors[1])
    if kind in ("row", "crowd") and not doors:
        doors = _doors(dice, kind)
    if not channel:
        searchable = any("find" in one for one in doors) or kind in ("freeze", "sync")
        channel = dice.choices(("maildir", "counted", "smtp"), (55, 30, 0 if searchable else 15))[0]
    counted = tuple(_count(dice, door, number) for number, door in enumerate(doors))
    moments = tuple(dice.random() for _ in range(dice.randint(1, 3)))
    return Plan(number, "each", kind, counted, channel, dice.choice((1, 2, 4)), batch, moments)


def _doors(dice: random.Random, kind: str) -> tuple[str, ...]:
    if kind == "recovery":
        return dice.choice(IN_DOUBT), dice.choice(ON_THE_WAY_BACK)
    if kind == "row":
        return tuple(dice.choice(DOORS) for _ in range(dice.randint(2, 4)))
    if kind == "crowd":
        return tuple(dice.choice(DOORS) for _ in range(dice.randint(1, 2)))
    if kind in ("freeze", "elsewhere"):
        return (dice.choice(FROZEN if kind == "freeze" else ELSEWHERE),)
    return (dice.choice(DOORS),) if kind == "doorway" else ()


def _count(dice: random.Random, door: str, place: int) -> str:
    """The how-manieth passing; later processes of a scenario have less left to do."""
    most = OFTEN.get(door.partition(":")[2], 1) if place == 0 else 1
    return f"{door}:{dice.randint(1, most)}"
