"""Audits what an agent did: draws cases for people to look at, counts what they found, and moves thresholds by it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from skills import can_keep_rules, knowledge_of
from tasks.audits import Change, adjust, count, draw, settings
from tasks.errors import BadInput
from tasks.figures import Figures, plain
from tasks.ledger import Ledger, the_ledger
from tasks.ledger.agents import all_agents
from tasks.ledger.judged import ask_the_judge, hear_the_judge
from tasks.ledger.proposals import newest_proposals
from tasks.ledger.reviewed import WEEK, Open, Window, begin_review, begins, end_review, week_of
from tasks.ledger.signals import keep, signals
from tasks.ledger.story import Told, worst_of_week
from tasks.model import has_key
from tasks.proposals import propose
from tasks.releases import rule
from tasks.report import notify, show_review
from tasks.rules import propose_rules

WEEKS = 8
WORST = 3  # decisions of the week that ended, each with its story
PROPOSALS = 10  # that the report shows


@flow(name="review", version="1", flow_run_name="review {agent}")
async def review(
    agent: str = Field(min_length=1, description="Its name, as under Deployments."),
    since: date | None = None,
    until: date | None = None,
    audits: int = Field(default=50, ge=10, le=5000, description="Cases a week that people are asked to look at."),
    target: float = Field(default=0.05, gt=0, lt=1, description="At most this share of what it acts on may be wrong."),
    sure: float = Field(
        default=0.9, ge=0.5, lt=1, description="The probability with which a threshold that it sets keeps the target."
    ),
    change: bool = Field(
        default=False, description="Move thresholds, learn, lay down rules, promote and roll back; or only say so."
    ),
    judge: bool = Field(default=False, description="Ask Claude for a second opinion on what was drawn; in no rate."),
    alarm: str = Field(default="", description="A notification block, such as `slack-webhook/ops`, for alarms."),
) -> State[Any]:
    """Review an agent's outcomes in a window: signals, audits, rates with intervals, thresholds, versions, report.

    Safe to kill and to run twice: a review that was not finished is gone on with as of the moment when it began, and
    draws, counts and changes the same. The window is the eight full weeks before this one unless days are given: its
    first, and the one after its last (UTC). Raises BadInput for an agent that never ran, or an empty window.
    """
    ledger, log = the_ledger(), get_run_logger()
    if agent not in {row.name for row in await ledger.read("list the agents", all_agents)}:
        raise BadInput(f"No agent {agent!r} has ever run a tick here; see the names under Deployments.")
    first, last = _window(since, until)
    if judge:
        await hear_opinions(ledger, agent)
    number, window = await ledger.write("begin the review", lambda c: begin_review(c, agent, first, last))
    told = await look_for_signals(ledger, window)
    asked = await draw_audits(ledger, window, audits)
    if judge:
        await ask_for_opinions(ledger, window)
    found = await count_outcomes(ledger, window)
    # Rules first: where one answer errs, the threshold of all others need not rise for it.
    changes = await leave_to_people(ledger, window, number, target, change)
    changes += await move_thresholds(ledger, window, number, target, change, sure)
    changes += await propose_lessons(ledger, window, number, change)
    changes += await judge_versions(ledger, window, number, change)
    urgent = [one.said for one in changes if one.alarm]
    worst = await tell_the_worst(ledger, window)
    learning = await ledger.read("list proposals", lambda c: newest_proposals(c, agent, PROPOSALS))
    await show_review(found, window, target, [one.said for one in changes], asked, worst, learning)
    await ledger.write("end the review", lambda c: end_review(c, number, plain(found)))
    if urgent and alarm:
        await notify(alarm, f"{agent} errs too often", "\n".join(urgent))
    for one in changes:
        log.info(one.said)
    wrong = found.total.wrong
    rate = "not known yet" if wrong.value is None else f"{wrong.value:.1%} ({wrong.low:.1%} to {wrong.high:.1%})"
    summary = f"{found.total.outcomes} outcomes, wrong of acted {rate}; {len(asked)} to look at, {told} new signal(s)."
    return Completed(name="Alarm" if urgent else "Completed", message=f"{summary} See Artifacts.")


def _window(since: date | None, until: date | None) -> tuple[float, float]:
    last = _moment(until) if until else begins(week_of(datetime.now(UTC).timestamp()))
    first = _moment(since) if since else last - WEEKS * WEEK
    if first >= last:
        raise BadInput(f"The window is empty: it begins on {since} and ends before {until or 'this week'}.")
    return first, last


def _moment(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


@task(task_run_name="look for later signals", cache_policy=NO_CACHE)
async def look_for_signals(ledger: Ledger, window: Window) -> int:
    """Customers who wrote again. Returns how many were not known."""
    since = window.since - timedelta(days=14).total_seconds()
    found = await ledger.read("look for signals", lambda c: signals(c, window.agent, since, window.until))
    return await ledger.write("keep signals", lambda c: keep(c, found))


@task(task_run_name="draw audits", cache_policy=NO_CACHE)
async def draw_audits(ledger: Ledger, window: Window, budget: int) -> list[Open]:
    """Choose what people look at, of every full week that was not drawn from. Returns what is open."""
    return await draw(ledger, window, budget)


@task(task_run_name="hear opinions", cache_policy=NO_CACHE)
async def hear_opinions(ledger: Ledger, agent: str) -> int:
    """Note what the judge said since the last review. Returns how many opinions are new."""
    if not (has_key() or (await ledger.read("read the agent", lambda c: settings(c, agent))).models):
        raise BadInput("A judge needs a model: set ANTHROPIC_API_KEY, or give the agent `models`, or set judge: false.")
    return await ledger.write("hear the judge", lambda c: hear_the_judge(c, agent))


@task(task_run_name="ask for opinions", cache_policy=NO_CACHE)
async def ask_for_opinions(ledger: Ledger, window: Window) -> int:
    """Make cases for the judge of what was drawn; the agent's next tick works them. Returns how many are new."""
    return await ledger.write("ask the judge", lambda c: ask_the_judge(c, window))


@task(task_run_name="count outcomes", cache_policy=NO_CACHE)
async def count_outcomes(ledger: Ledger, window: Window) -> Figures:
    """All figures."""
    return await count(ledger, window)


@task(task_run_name="tell the worst", cache_policy=NO_CACHE)
async def tell_the_worst(ledger: Ledger, window: Window) -> list[Told]:
    """The worst decisions of the week that ended, each with its story."""
    return await ledger.read("tell the worst of the week", lambda c: worst_of_week(c, window, WORST))


@task(task_run_name="move thresholds", cache_policy=NO_CACHE)
async def move_thresholds(
    ledger: Ledger, window: Window, number: int, target: float, change: bool, sure: float
) -> list[Change]:
    """What the audits say of each skill's threshold."""
    return await adjust(ledger, window, number, target, change, 1 - sure)


@task(task_run_name="propose lessons", cache_policy=NO_CACHE)
async def propose_lessons(ledger: Ledger, window: Window, number: int, change: bool) -> list[Change]:
    """What each skill could learn, with its exam."""
    return await propose(ledger, window, number, change, knowledge_of)


@task(task_run_name="leave to people", cache_policy=NO_CACHE)
async def leave_to_people(ledger: Ledger, window: Window, number: int, target: float, change: bool) -> list[Change]:
    """Which answers each skill should hand over, or no longer, with their exams."""
    return await propose_rules(ledger, window, number, target, change, can_keep_rules)


@task(task_run_name="judge versions", cache_policy=NO_CACHE)
async def judge_versions(ledger: Ledger, window: Window, number: int, change: bool) -> list[Change]:
    """What becomes of versions that are tried out."""
    return await rule(ledger, window, number, change)
