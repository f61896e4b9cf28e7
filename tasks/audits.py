"""The work of a review between the ledger and the statistics: what is drawn, counted and changed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection

from tasks.calibration import Chosen, Label, alarm, choose
from tasks.figures import Figures, figures, strata
from tasks.ledger import Ledger
from tasks.ledger.agents import all_agents
from tasks.ledger.releases import releases_of
from tasks.ledger.reviewed import (
    TOLD,
    WEEK,
    Audited,
    Open,
    Window,
    ask_about,
    audited,
    begins,
    disagreements,
    name_of,
    one_by_one,
    open_audits,
    settled_by_people,
    spent,
    was_drawn,
    week_of,
    wrong_ones,
)
from tasks.ledger.reviewed import count as count_cells
from tasks.ledger.rules import held_answers
from tasks.ledger.thresholds import set_threshold, threshold_of
from tasks.records import Agent
from tasks.sampling import Cell, plan, stratum
from tasks.sampling import draw as draw_from

WHO = "the review"
WORST = 20
MOVED = 0.005
"""Thresholds closer together than this are the same."""
FEW = 10
"""So many audits are no ground for a threshold, not even for a cautious one."""
HIGHEST = 0.99
TRIED = "tried/"
"""Begins the names of a canary's strata, which are drawn from by a plan of their own."""


class Change(NamedTuple):
    """What a review does, or would do, to one skill of an agent."""

    skill: str
    said: str
    alarm: bool


def settings(c: Connection, agent: str) -> Agent:
    """An agent as its last tick had it."""
    return next(Agent.model_validate_json(str(row.settings)) for row in all_agents(c) if row.name == agent)


async def draw(ledger: Ledger, window: Window, budget: int) -> list[Open]:
    """Draw from each full week of a window, once. Returns what nobody answered yet, the newest week first."""
    agent = await ledger.read("read the agent", lambda c: settings(c, window.agent))
    last = week_of(min(window.until, window.as_of) - WEEK)
    for week in range(week_of(window.since + WEEK - 1), last + 1):
        period = name_of(week)
        if await ledger.read("look for the week's draw", partial(was_drawn, agent=window.agent, period=period)):
            continue
        one = Window(window.agent, begins(week), begins(week + 1), window.as_of)
        given = partial(_drawn, week=one, period=period, agent=agent, budget=budget)
        drawn = await ledger.read(f"draw from the week of {period}", given)
        # All of a week in one transaction: a plan is there, or it is not.
        entered = partial(ask_about, agent=window.agent, period=period, drawn=drawn, as_of=window.as_of)
        await ledger.write(f"ask about the week of {period}", entered)
    return await ledger.read("list open audits", partial(open_audits, window=window))


def _drawn(c: Connection, week: Window, period: str, agent: Agent, budget: int) -> dict[int, tuple[str, float]]:
    limits: dict[str, float] = {}

    def cell(kind: str, skill: str, version: str, confidence: float | None) -> str:
        if skill not in limits:
            found = threshold_of(c, week.agent, skill)
            limits[skill] = agent.threshold if found is None else found
        return stratum(kind, skill, version, confidence, limits[skill])

    tried, known = tried_out(c, week), settled_by_people(c, week)
    counted: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    told: Counter[str] = Counter()
    for number, kind, skill, version, sure in one_by_one(c, week):
        counted[(skill, version) in tried][name := cell(kind, skill, version, sure)] += 1
        told[name] += number in known
    # Known whole they are certain, and cost no audit. Known in part they are drawn from like any other: people may
    # have looked where something was wrong.
    whole = {name for cells in counted.values() for name, n in cells.items() if told[name] == n}
    counted = {
        tries: Counter({name: n for name, n in cells.items() if name not in whole}) for tries, cells in counted.items()
    }
    named = ((row[0], cell(*row[1:])) for row in one_by_one(c, week))
    found = {number: (f"{TOLD}{name}", 1.0) for number, name in named if name in whole}
    if not counted[True] or not counted[False] or budget < 2 * FEW:
        parts = {"": (counted[True] + counted[False], budget)}
    else:
        # By its share of the cases a canary would have so few that nothing could be said of it for months.
        parts = {TRIED: (counted[True], budget // 2), "": (counted[False], budget - budget // 2)}
    before: defaultdict[str, list[bool]] = defaultdict(list)
    for one in audited(c, Window(week.agent, week.since - 8 * WEEK, week.since, week.as_of)):
        if one.right is not None:
            before[one.stratum].append(one.right)
    for mark, (cells, share) in parts.items():
        if not cells:
            continue
        planned = plan((_told(name, n, before[f"{mark}{name}"]) for name, n in sorted(cells.items())), share)
        named = ((row[0], cell(*row[1:])) for row in one_by_one(c, week))
        drawn = draw_from((one for one in named if one[1] in cells), planned, f"{week.agent} {period}")
        found |= {outcome: (f"{mark}{one.stratum}", one.chance) for outcome, one in drawn.items()}
    return found


def _told(name: str, population: int, before: Sequence[bool]) -> Cell:
    return Cell(name, population, len(before), before.count(False))


def tried_out(c: Connection, window: Window) -> set[tuple[str, str]]:
    """Skill and version of each canary."""
    return {(one.skill, one.version) for one in releases_of(c, window.agent, window.as_of) if one.stage == "canary"}


async def count(ledger: Ledger, window: Window) -> Figures:
    """All figures of a window."""

    def read(c: Connection) -> Figures:
        drawn = audited(c, window)
        pairs = disagreements(c, window)
        several = {outcome for outcome, *_ in pairs}
        unresolved = sum(one.right is None and one.outcome in several for one in drawn)
        cells, costs, worst = count_cells(c, window), spent(c, window), wrong_ones(c, window, WORST)
        return figures(cells, drawn, costs, pairs, worst, unresolved)

    # One snapshot: what comes in meanwhile is in all of it or in none.
    return await ledger.read("count outcomes", read)


async def adjust(
    ledger: Ledger, window: Window, review: int, target: float, change: bool, delta: float
) -> list[Change]:
    """Move the threshold of each skill to where its audits say that the target is kept; say why, also if not moved.

    A threshold errs with a probability of at most `delta`.
    """
    agent = await ledger.read("read the agent", lambda c: settings(c, window.agent))
    tried = await ledger.read("see what is tried out", lambda c: tried_out(c, window))
    drawn = await ledger.read("read the audits", lambda c: audited(c, window))
    drawn = [one for one in drawn if (one.skill, one.version) not in tried]  # its errors end the trial, not the rest
    changes = []
    for skill in sorted({one.skill for one in drawn}):
        # What a rule leaves to people, also one of this review, is acted on at no threshold: its errors move none.
        ruled = partial(held_answers, agent=window.agent, skill=skill)
        held = await ledger.read("read the rules", ruled)
        mine = [one for one in drawn if one.skill == skill and one.confidence is not None and one.answer not in held]
        found = await ledger.read("read the threshold", partial(threshold_of, agent=window.agent, skill=skill))
        now = agent.threshold if found is None else found
        labels = [Label(one.confidence or 0.0, one.right, one.chance) for one in mine if one.right is not None]
        chosen, raised = choose(labels, target, delta), _alarm(mine, now, target)
        to = _where(chosen, labels, now, target, bool(raised))
        why = chosen.why if not raised else f"{raised} {chosen.why}"
        if abs(to - now) < MOVED:
            changes.append(Change(skill, f"{skill} goes on acting from {now:.2f} on. {why}", bool(raised)))
            continue
        said = f"{skill} {'acts' if change else 'would act'} from {to:.2f} on, not {now:.2f}. {why}"
        changes.append(Change(skill, said, bool(raised)))
        if change:
            moved: dict[str, Any] = dict(agent=window.agent, skill=skill, threshold=to, who=WHO, why=why, review=review)
            await ledger.write(f"set the threshold of {skill}", partial(set_threshold, **moved))
    return changes


def _alarm(rows: Sequence[Audited], now: float, target: float) -> str:
    """Why the newest week that people told is worse than the target by more than chance; '' if it is not.

    Only of what would still be acted on: what an earlier alarm put an end to raises no other.
    """
    known = [one for one in rows if one.kind == "acted" and one.right is not None]
    acted = [one for one in known if (one.confidence or 0.0) >= now]
    if not acted:
        return ""
    newest = max(one.week for one in acted)
    found = alarm(strata(one for one in acted if one.week == newest), target)
    return f"Alarm: {found.why}" if found.raised else ""


def _where(chosen: Chosen, labels: Sequence[Label], now: float, target: float, raised: bool) -> float:
    """The threshold to have: the one that was proved; at an alarm never a lower one than now."""
    if chosen.threshold is not None:
        return float(max(chosen.threshold, now) if raised else chosen.threshold)
    return max(_cautious(labels, target), now) if raised else now


def _cautious(labels: Sequence[Label], target: float) -> float:
    """Where the audits' own rate keeps the target: better than to go on, and nothing that was proved."""
    falling = sorted(labels, key=lambda one: -one.confidence)
    found, wrong, weight = HIGHEST, 0.0, 0.0
    for place, one in enumerate(falling, 1):
        weight += 1 / one.chance
        wrong += 0.0 if one.right else 1 / one.chance
        if place >= FEW and wrong <= target * weight:
            found = one.confidence
    return min(found, HIGHEST)
