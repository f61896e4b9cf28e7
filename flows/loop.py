"""One tick of an agent: poll, record, decide, hand batches to skills, report."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import httpx
from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.runtime import deployment
from prefect.states import Completed
from sqlalchemy import Connection

from skills import catalogue, describe, skill_flow
from tasks import channels, sources
from tasks.batches import Log, collect, submit
from tasks.budgets import limits
from tasks.errors import BadInput, FenceLost, HoldfastError, LedgerLost
from tasks.lease import Lease, holding
from tasks.ledger import Ledger, the_ledger
from tasks.ledger.agents import has_agent, release_agent, take_agent
from tasks.ledger.approvals import run_out, what_waits
from tasks.ledger.arrivals import concluded, finished, hear, recall, record, seen, to_finish, to_hear
from tasks.ledger.calls import reopen, short_of_money
from tasks.ledger.cases import counts
from tasks.ledger.releases import has_shadows, show_to_shadows, to_begin
from tasks.ledger.routing import decide, undecided
from tasks.model import has_key
from tasks.records import Agent, Arrival, CaseId, Note, Signal, Unreadable
from tasks.report import show_tick, show_waiting, worked_since
from tasks.ring import ring_again
from tasks.sources import Found, Known

DECIDE = "decide"
CHUNK = 100  # mails read and recorded at once


class Polled(NamedTuple):
    """What a poll brought."""

    new: int
    unreadable: list[str]
    trouble: HoldfastError | None
    """Why the source could not be read, or not to its end."""


def _run_name() -> str:
    context = FlowRunContext.get()
    parameters = (context.parameters if context else None) or {}
    agent = parameters.get("agent")
    name = (agent.name if isinstance(agent, Agent) else "") or deployment.name or "agent"
    return f"{name}{' rehearsal' if parameters.get('dry_run', True) else ''} {datetime.now(UTC):%d %b %H:%M:%S}"


@flow(name="agent-loop", version="1", flow_run_name=_run_name)
async def agent_loop(agent: Agent, dry_run: bool = True, stale_seconds: int = 300) -> State[Any]:
    """One tick of an agent: poll its source, decide, work what is ready, report.

    Ends as Completed, Idle (nothing to do) or Skipped (another tick is at work, this one came too late,
    or the agent is paused or draining).

    Args:
        agent: Where its work comes from, what it can do, what it may do.
        dry_run: Rehearse: every effect is recorded and none leaves.
        stale_seconds: A scheduled tick later than this does nothing, so that an outage ends without a storm.
    """
    if late := _superseded(stale_seconds):
        return Completed(name="Skipped", message=late)
    name = agent.name or deployment.name or ""
    if not name:
        raise BadInput("The agent has no name: run it from a deployment, or set agent.name.")
    agent = agent.model_copy(update={"name": name, "source": sources.canonical(agent.source)})
    _check(agent)
    ledger, context = the_ledger(), FlowRunContext.get()
    flow_run = str(context.flow_run.id) if context and context.flow_run else ""
    try:
        async with holding(ledger, flow_run) as lease:
            taken = partial(take_agent, agent=agent, dry_run=dry_run, holder=lease.holder)
            if busy := await ledger.write(f"take agent {name}", taken):
                return Completed(name="Skipped", message=f"{name}: {busy}.")
            try:
                return await _tick(ledger, agent, dry_run, lease)
            finally:
                rung = await ledger.write(f"release agent {name}", lambda c: release_agent(c, name, lease.holder))
                if rung is not None:
                    await ring_again(name, rung, deployment.id)
    except (LedgerLost, FenceLost) as why:
        # Prefect would call it crashed, and the crash trigger start one tick after the other against the same ledger.
        raise HoldfastError(str(why)) from why


def _superseded(stale_seconds: int) -> str:
    """Why a newer tick should work instead of this run; '' if it should work."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None:
        return ""
    if run.run_count > 1:
        # A retried parent would hand back the old batch's result instead of working the new one.
        return "this run is a retry; the next tick goes on with what is left"
    if run.auto_scheduled and run.expected_start_time:
        late = (datetime.now(UTC) - run.expected_start_time).total_seconds()
        if late > stale_seconds:
            return f"it starts {late:.0f} s late; a newer tick does its work (if all are: `doctor` compares clocks)"
    return ""


def _check(agent: Agent) -> None:
    """Refuse settings that can not work, before anything is touched."""
    known = catalogue()
    if missing := [one for one in agent.skills if one not in known]:
        raise BadInput(f"No skill is called {missing[0]!r}. Skills here: {', '.join(sorted(known))}.")
    if DECIDE in agent.skills:
        raise BadInput(f"{DECIDE!r} chooses among an agent's skills; leave it out of the list.")
    if len(agent.skills) > 1 and not (has_key() or agent.models):
        raise BadInput(
            "Choosing among several skills needs a model that reads their descriptions: set ANTHROPIC_API_KEY, or give "
            "this agent one skill."
        )
    for skill in agent.skills:
        describe(skill)
    for channel in agent.effects.values():
        channels.check(channel)
    if unknown := sorted(agent.approvals.keys() - agent.effects.keys()):
        raise BadInput(f"approvals names {unknown[0]!r}, which is none of the agent's effects: nothing would wait.")


async def _tick(ledger: Ledger, agent: Agent, dry_run: bool, lease: Lease) -> State[Any]:
    """Works what was recorded also while its source can not be read, and fails then: people shall see that."""
    log = get_run_logger()
    if not dry_run:
        await _finish(ledger, agent, log)  # what a killed tick left
    polled = await _poll(ledger, agent, lease)
    if polled.trouble:
        log.warning("The source can not be read now; what was recorded is worked: %s", polled.trouble)
    for why in polled.unreadable:
        log.warning("Not readable, left where it is: %s", why)
    state = await _work(ledger, agent, dry_run, lease, polled)
    if polled.trouble:
        raise polled.trouble
    return state


async def _work(ledger: Ledger, agent: Agent, dry_run: bool, lease: Lease, polled: Polled) -> State[Any]:
    log, began, started = get_run_logger(), time.time(), time.monotonic()
    await collect(ledger, agent.name, log)  # first: what has ended leaves room to those who wait for money
    if await ledger.read("see who waits for money", lambda c: short_of_money(c, agent.name)):
        back = partial(reopen, agent=agent.name, limits_of=lambda case: limits(agent, case))
        if count := await ledger.write("give back who waited for money", back):
            log.info("%d case(s) that waited for money go on", count)
    if agent.approvals:
        for said in await ledger.write("see what nobody spoke of", lambda c: run_out(c, agent.name)):
            log.warning(said)
    await _hear(ledger, agent)  # before the work: what was wrong last time counts at once
    chosen = agent.skills[0] if len(agent.skills) == 1 else DECIDE
    while waiting := await ledger.read("see what is undecided", lambda c: undecided(c, agent.name, CHUNK)):
        await ledger.write("decide", partial(decide, ids=[one.id for one in waiting], skill=chosen))
    tried: set[tuple[CaseId, str]] = set()
    while True:
        batch = await ledger.read("see what is ready", lambda c: to_begin(c, agent.name, agent.batch))
        by_version: dict[tuple[str, str], list[CaseId]] = defaultdict(list)
        for one in batch:
            if (one.case, one.skill) not in tried:
                by_version[one.skill, one.version].append(one.case)
        if not by_version:  # what is left was tried in this tick; the next one tries again
            if await _shown_to_shadows(ledger, agent):
                continue
            break
        for (skill, version), ids in by_version.items():
            works = skill_flow(skill, version)
            if version not in ("", works.version):
                log.warning("%s %s is not in the code any more; %s works instead", skill, version, works.version)
            log.info("%d case(s) go to %s %s", len(ids), skill, works.version)
            tried.update((case, skill) for case in ids)
            shown = f"{skill} {version}" if version else skill
            named = f"{shown}: {len(ids)} case(s) of {agent.name}{', rehearsal' if dry_run else ''}"
            with _server_answers():
                await works.with_options(flow_run_name=named)(cases=ids)
    worked = len({case for case, _ in tried})
    await submit(ledger, agent.name, lease, log)
    await _hear(ledger, agent)
    if not dry_run:
        await _finish(ledger, agent, log)
    left = await ledger.read("count what is left", lambda c: counts(c, agent.name))
    summary = _summary(polled.new, worked, left, dry_run)
    if not worked:
        return Completed(name="Idle", message=summary)
    began = min(began, time.time() - (time.monotonic() - started))  # the clock may have been set back meanwhile
    rows = await ledger.read("read the tick's table", lambda c: worked_since(c, agent.name, began))
    results = Counter(row["result"] for row in rows)
    summary += " " + ", ".join(f"{count} {result}" for result, count in results.most_common(6)) + "."
    with _server_answers():
        await show_tick(agent.name, rows, summary, polled.unreadable)
        if agent.approvals:
            await show_waiting(agent, await ledger.read("see what waits", lambda c: what_waits(c, agent.name)))
    return Completed(message=summary)


async def _hear(ledger: Ledger, agent: Agent) -> None:
    if await ledger.read("see what signals wait", lambda c: to_hear(c, agent.source)):
        await ledger.write("hear signals", lambda c: hear(c, agent.source))


async def _shown_to_shadows(ledger: Ledger, agent: Agent) -> bool:
    """Once nothing else is ready: whether there was anything that versions in shadow had not seen."""
    if not await ledger.read("look for shadows", lambda c: has_shadows(c, agent.name)):
        return False
    return bool(await ledger.write("show cases to shadows", lambda c: show_to_shadows(c, agent.name, agent.batch)))


@contextlib.contextmanager
def _server_answers() -> Iterator[None]:
    """Say what it means when Prefect's server is gone: skills keep errors of their own to themselves."""
    try:
        yield
    except httpx.HTTPError as why:
        raise HoldfastError(
            f"Prefect's server does not answer ({type(why).__name__}: {why}), so this tick ends. Whatever was begun is "
            "finished and recorded, the rest was not touched; the next tick goes on. Look with `doctor`."
        ) from why


def _summary(new: int, worked: int, left: dict[str, int], dry_run: bool) -> str:
    rest = ", ".join(f"{count} {state}" for state, count in sorted(left.items())) or "none"
    rehearsal = "Rehearsal: nothing left the house. " if dry_run else ""
    return f"{rehearsal}{new} new, {worked} worked; unsettled: {rest}."


async def _poll(ledger: Ledger, agent: Agent, lease: Lease) -> Polled:
    """Record what is new, a few at a time, so that a thousand mails are never in memory together."""
    source = agent.source

    def entered(c: Connection, found: Sequence[Arrival | Note | Signal]) -> int:
        if not has_agent(c, agent.name, lease.holder):  # what it read before it froze is older than what stands there
            raise HoldfastError(f"Another tick of {agent.name} took over while this one was frozen; it goes on.")
        return record(c, agent.name, source, found)

    known = Known(
        lambda names: ledger.read_now("see what is new", lambda c: seen(c, source, names)),
        lambda prefix: ledger.read_now("see what it noted", lambda c: recall(c, source, prefix)),
        lambda keys: ledger.read_now("see what came of its cases", lambda c: concluded(c, source, keys)),
    )
    found = sources.poll(source, known)
    new, unreadable, chunk = 0, list[str](), list[Found]()

    def read() -> HoldfastError | None:
        chunk.clear()
        try:
            for one in islice(found, CHUNK):
                chunk.append(one)
        except HoldfastError as why:
            return why
        return None

    while True:
        trouble = await asyncio.to_thread(read)
        unreadable += [f"{one.marker}: {one.why}" for one in chunk if isinstance(one, Unreadable)]
        if got := [one for one in chunk if not isinstance(one, Unreadable)]:
            new += await ledger.write("record", partial(entered, found=got))
        if trouble or not chunk:
            return Polled(new, unreadable, trouble)


async def _finish(ledger: Ledger, agent: Agent, log: Log) -> None:
    """Tell the source which of its cases are settled; what fails is tried by the next tick."""
    if not sources.can_finish(agent.source):
        return
    waiting = partial(to_finish, source=agent.source, most=CHUNK)
    while markers := await ledger.read("see what is settled", waiting):
        try:
            await asyncio.to_thread(sources.finish, agent.source, markers)
        except Exception as why:
            log.warning("The source was not told what is settled, the next tick does it: %s", why)
            return
        await ledger.write("remember what is finished", partial(finished, source=agent.source, names=markers))
