"""Which outcomes are audited: so many a week, where a verdict teaches most, and the same ones when drawn again."""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

NEAR = 0.1
"""So far from the threshold an outcome's confidence counts as near it."""

MORE_NEAR = 1.5
"""An audit near the threshold counts for so many others: it tells whether the threshold may move. With 2 the weights
were so unequal that fewer thresholds could be trusted."""

EDGES = (0.5, 0.7, 0.8, 0.9, 0.95)
"""Between the confidence bands of a skill without a threshold."""

SUSPECTED = 1, 4
"""Wrong and right audits that are added to what a stratum had, so that none is taken to be faultless or all wrong."""

LONGEST = 120
"""Characters of a stratum's name."""


class Cell(NamedTuple):
    """A stratum as it was counted, and what earlier audits found in it."""

    name: str
    population: int
    audited: int = 0
    wrong: int = 0


class Plan(NamedTuple):
    """How many outcomes of each stratum are audited."""

    take: Mapping[str, int]
    of: Mapping[str, int]
    """How many outcomes each stratum has."""
    into: Mapping[str, str]
    """The stratum of each cell: its own, or one that it shares with others because the budget is small."""


class Drawn(NamedTuple):
    """Of an outcome that is to be audited."""

    stratum: str
    chance: float
    """The probability with which the plan drew it, above 0."""


def stratum(kind: str, skill: str, version: str, confidence: float | None, threshold: float | None = None) -> str:
    """The name of an outcome's stratum, from the coarsest part to the finest: `kind/skill/version/band`.

    Bands lie around the threshold where one is given. Long names are cut and told apart by a digest.
    """
    tail = f"/{_band(confidence, threshold)}"
    parts = [_part(kind, 12), _part(skill, 60), _part(version, 24)]
    return "/".join(parts) + tail


def plan(cells: Iterable[Cell], budget: int, least: int = 5) -> Plan:
    """At most `budget` audits: `least` of each stratum (or all it has), the rest by Neyman's allocation.

    That is in proportion to population times standard deviation (Neyman 1934), here of suspected errors, and
    `MORE_NEAR` times as many near the threshold. Where the budget does not reach for every stratum, the smallest are
    put together: bands first, then versions, then skills, but acted ones never with the others.
    Raises ValueError if the budget does not even reach for the kinds, or for a cell that was given twice.
    """
    counted = [one for one in cells if one.population > 0]
    known = {one.name: one for one in counted}
    if len(known) < len(counted):
        raise ValueError("a stratum was counted twice")
    into = _fitting({name: one.population for name, one in known.items()}, budget, least)
    of: Counter[str] = Counter()
    worth: defaultdict[str, float] = defaultdict(float)
    for name, one in sorted(known.items()):
        of[into[name]] += one.population
        worth[into[name]] += _worth(one)
    names = sorted(of)
    shared = _shared([of[one] for one in names], [worth[one] for one in names], budget, least)
    return Plan(dict(zip(names, shared, strict=True)), dict(of), into)


def draw(outcomes: Iterable[tuple[int, str]], plan: Plan, seed: str) -> dict[int, Drawn]:
    """The outcomes to audit, of all as (id, name of the cell), in the order of their ids.

    Those of each stratum whose id and seed have the smallest sha256: a simple random sample without replacement, and
    the same again for the same outcomes and seed, in whatever order they come. Memory is bound by the plan, not by the
    outcomes. Raises ValueError if they are not those that were counted: chances would be wrong.
    """
    heaps: dict[str, list[tuple[int, int]]] = {name: [] for name in plan.take}
    seen: Counter[str] = Counter()
    for number, cell in outcomes:
        if (name := plan.into.get(cell)) is None:
            raise ValueError(f"nobody counted {cell}")
        seen[name] += 1
        # Negative, because the heap gives up its smallest, and the largest hash is to go.
        hashed = -int.from_bytes(sha256(f"{seed}:{number}".encode()).digest()), number
        if len(heaps[name]) < plan.take[name]:
            heapq.heappush(heaps[name], hashed)
        else:
            heapq.heappushpop(heaps[name], hashed)
    if seen != Counter(plan.of):
        wrong = next(name for name in plan.of if seen[name] != plan.of[name])
        raise ValueError(f"{wrong} has {seen[wrong]} outcomes, but {plan.of[wrong]} were counted")
    chances = {name: plan.take[name] / plan.of[name] for name in plan.of}
    found = {number: Drawn(name, chances[name]) for name, heap in heaps.items() for _, number in heap}
    return dict(sorted(found.items()))


def _band(confidence: float | None, threshold: float | None) -> str:
    if confidence is None:
        return "unsaid"
    if threshold is not None:
        side = "above" if confidence >= threshold else "below"
        return f"{'near' if round(abs(confidence - threshold), 9) <= NEAR else 'far'} {side}"
    over = [edge for edge in EDGES if confidence >= edge]
    return f"from {over[-1] if over else 0}"


def _part(text: str, most: int) -> str:
    """Without the slash that parts are told apart by."""
    if len(text) <= most and "/" not in text:
        return text
    return f"{text.replace('/', '-')[: most - 9]}~{sha256(text.encode()).hexdigest()[:8]}"


def _worth(cell: Cell) -> float:
    wrong, right = SUSPECTED
    share = (cell.wrong + wrong) / (cell.audited + wrong + right)
    near = cell.name.rpartition("/")[2].startswith("near")
    return cell.population * math.sqrt(share * (1 - share)) * (MORE_NEAR if near else 1.0)


def _fitting(sizes: Mapping[str, int], budget: int, least: int) -> dict[str, str]:
    """The stratum of each cell, so that the budget reaches for the least of every stratum."""
    into = {name: name for name in sizes}
    of = Counter(sizes)
    while sum(min(least, size) for size in of.values()) > budget:
        for small in sorted(of, key=lambda name: (of[name], name)):
            if above := _shared_part(small, of):
                break
        else:
            raise ValueError(f"{budget} audits do not reach for {least} of each kind of outcome")
        beside = [name for name in of if name != small and f"{name}/".startswith(f"{above}/")]
        other = min(beside, key=lambda name: (of[name], name))
        size = of.pop(small) + of.pop(other)
        of[above] += size
        into = {cell: above if name in (small, other) else name for cell, name in into.items()}
    return into


def _shared_part(name: str, names: Iterable[str]) -> str:
    """The most that the beginning of a name has in common with another one, in whole parts."""
    beginnings = [f"{other}/" for other in names if other != name]
    above = name
    while above and not any(other.startswith(f"{above}/") for other in beginnings):
        above = above.rpartition("/")[0]
    return above


def _shared(sizes: Sequence[int], worths: Sequence[float], budget: int, least: int) -> list[int]:
    """In proportion to the worths as far as `least` and the sizes let it, with the remainder where most was cut off."""
    floors = [min(least, size) for size in sizes]

    def at(rate: float) -> list[float]:
        return [min(max(rate * worth, floor), size) for worth, floor, size in zip(worths, floors, sizes, strict=True)]

    if sum(sizes) <= budget:
        return list(sizes)
    low, high = 0.0, max(size / worth for size, worth in zip(sizes, worths, strict=True))
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(at(middle)) <= budget else (low, middle)
    exact = at(low)
    take = [math.floor(one) for one in exact]
    by_remainder = sorted(range(len(take)), key=lambda one: take[one] - exact[one])
    for one in [place for place in by_remainder if take[place] < sizes[place]][: budget - sum(take)]:
        take[one] += 1
    return take
