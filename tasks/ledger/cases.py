"""What becomes of a case, each query named as the sentence it answers."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from sqlalchemy import Connection, Row, and_, bindparam, exists, func, insert, or_, select, update

from tasks.errors import FenceLost
from tasks.ledger.lessons import newest as newest_lesson
from tasks.ledger.rules import held_answers
from tasks.ledger.tables import (
    SHADOW,
    agents,
    asked_later,
    attempts,
    cases,
    holders,
    outcomes,
    steps,
    unsettled,
)
from tasks.ledger.thresholds import threshold_of
from tasks.records import Agent, Case, CaseId, Outcome, Policy

ERRORS = 3  # attempts in a row that end in an error, before the case is quarantined
BACKOFF_SECONDS = (20.0, 120.0)
OUTSIDE_SECONDS = (20.0, 60.0, 120.0, 300.0)  # between tries while a channel takes nothing
OUTSIDE_TRIES = 300  # in a row, which is about a day, before such a case is quarantined
LONGEST_BACKOFF = max(*BACKOFF_SECONDS, *OUTSIDE_SECONDS)


class Work(NamedTuple):
    """A case in hand, with all that its steps and effects need to know."""

    case: Case
    fence: int
    take: int
    resend: int
    steps: dict[str, bytes]
    policy: Policy
    agent: Agent
    dry_run: bool
    suspect: bool


class NotBegun(NamedTuple):
    """Why a case is not worked now."""

    case: CaseId
    why: str


def load(row: Row[tuple[object, ...]]) -> Case:
    """The Case behind a row of `cases`."""
    return Case(id=row.id, agent=row.agent, source=row.source, **json.loads(str(row.body)))


def ready(c: Connection, agent: str, limit: int) -> list[tuple[CaseId, str]]:
    """Cases that can be begun now, oldest first, with the skill that was decided; one per thread."""
    other, now = cases.alias("other"), time.time()
    far = now + LONGEST_BACKOFF  # nothing was ever told to wait so long: the clock was set back meanwhile
    waits = other.c.not_before.between(now, far) | asked_later(other)
    held_up = and_(
        unsettled(other),
        other.c.source == cases.c.source,
        other.c.thread == cases.c.thread,
        other.c.id != cases.c.id,
        or_(
            other.c.state == "working",
            and_(other.c.id < cases.c.id, other.c.state == "parked"),
            and_(other.c.id < cases.c.id, other.c.state == "open", waits),
        ),
    )
    found = (
        select(cases.c.id, cases.c.skill)
        .where(unsettled(), cases.c.agent == agent, cases.c.state == "open")
        .where(cases.c.skill != "", ~cases.c.not_before.between(now, far))
        .where(~exists().where(held_up), ~asked_later(cases))
        .order_by(cases.c.id)
        .limit(limit)
    )
    return [(row.id, row.skill) for row in c.execute(found)]


class Lane(NamedTuple):
    """Where a case stands in a batch: its conversation, whether it runs alone, how many its agent works at once."""

    case: CaseId
    conversation: tuple[str, str]
    alone: bool
    concurrency: int


def lanes(c: Connection, ids: Sequence[CaseId]) -> list[Lane]:
    """The cases of a batch that exist, oldest first."""
    columns = (cases.c.id, cases.c.source, cases.c.thread, cases.c.suspect, agents.c.settings)
    joined = cases.outerjoin(agents, agents.c.name == cases.c.agent)
    found = select(*columns).select_from(joined).where(cases.c.id.in_(ids)).order_by(cases.c.id)
    rows = c.execute(found).all()
    wide = {s: Agent.model_validate_json(s).concurrency if s else 1 for s in {row.settings for row in rows}}
    return [Lane(row.id, (row.source, row.thread), row.suspect, wide[row.settings]) for row in rows]


# Nobody looks after the cases of an ended holder again. The row stays locked, so that none is ended in between.
_ENDED = select(holders.c.ended).where(holders.c.id == bindparam("holder")).with_for_update(read=True)


def begin(
    c: Connection, case: CaseId, holder: str, skill: str, version: str, flow_run: str, alone: bool = False
) -> Work | NotBegun:
    """Take lease and fence and count the attempt, before the work, in one transaction."""
    row = c.execute(select(cases).where(cases.c.id == case).with_for_update()).one_or_none()
    if row is None:
        return NotBegun(case, "no such case; `prefect deployment run` takes ids that a tick recorded")
    if row.state == "working":
        return NotBegun(case, "another run works it")
    if row.state != "open":
        return NotBegun(case, f"it is {row.state}{': ' + row.reason if row.reason else ''}")
    if row.suspect and not alone:
        return NotBegun(case, "it was in hand when a process died, so it runs alone")
    first = c.execute(
        select(func.min(cases.c.id)).where(
            cases.c.source == row.source,
            cases.c.thread == row.thread,
            unsettled(),
            cases.c.id != case,
            (cases.c.id < case) | (cases.c.state == "working"),
        )
    ).scalar()
    if first is not None:
        return NotBegun(case, f"case {first} of the same conversation comes first")
    owner = c.execute(select(agents).where(agents.c.name == row.agent)).one_or_none()
    if owner is None:
        return NotBegun(case, f"its agent {row.agent!r} has never run a tick, so its settings are not known")
    if owner.draining:
        return NotBegun(case, "its agent is draining: `up` starts it again")
    if c.execute(_ENDED, {"holder": holder}).scalar():
        return NotBegun(case, "this process was given up while it was frozen or cut off; the next run works it")
    kept = {s.key: s.value for s in c.execute(select(steps.c.key, steps.c.value).where(steps.c.case == case))}
    if len(kept) < row.stored:
        # A step without its row would run and be paid for again, and nobody would know.
        why = (
            f"{row.stored - len(kept)} of {row.stored} finished steps are missing from the ledger; restore its backup "
            f"and `release {case}`, or pay for them again: `redo {case}`"
        )
        c.execute(update(cases).where(cases.c.id == case).values(state="quarantined", reason=why))
        return NotBegun(case, f"it is quarantined: {why}")
    agent = Agent.model_validate_json(owner.settings)
    # Threshold, version, lessons and rules are pinned, so that a replay after a restart takes the same turns as before.
    if row.policy:
        # Its version is another one only if a person asked for that one, or if the code has the first no more.
        policy = Policy.model_validate_json(row.policy).model_copy(update={"versions": {skill: version}})
    else:
        found, learnt = threshold_of(c, row.agent, skill), newest_lesson(c, row.agent, skill)
        threshold = agent.threshold if found is None else found
        held = held_answers(c, row.agent, skill)
        policy = Policy(threshold=threshold, versions={skill: version}, lessons=learnt, held=held)
    fence = row.fence + 1
    values = dict(state="working", holder=holder, fence=fence, policy=policy.model_dump_json(), reason="", skill=skill)
    # More rows than were counted: a process of an older version stored them.
    c.execute(update(cases).where(cases.c.id == case).values(**values, stored=len(kept)))
    c.execute(
        insert(attempts).values(
            case=case, fence=fence, holder=holder, skill=skill, version=version, flow_run=flow_run, begun=time.time()
        )
    )
    rehearses = owner.dry_run or row.source.startswith(SHADOW)
    return Work(load(row), fence, row.take, row.resend, kept, policy, agent, rehearses, row.suspect)


_HELD = select(cases.c.fence, cases.c.state).where(cases.c.id == bindparam("case")).with_for_update()


def guard(c: Connection, case: CaseId, fence: int, doing: str) -> None:
    """Refuse a writer that no longer holds the case; the row stays locked until the end of the transaction."""
    row = c.execute(_HELD, {"case": case}).one_or_none()
    if row is None or row.fence != fence or row.state != "working":
        raise FenceLost(case, fence, doing)


def end_attempt(c: Connection, case: CaseId, fence: int, how: str, why: str, replayed: int) -> None:
    """Say how an attempt ended."""
    values = dict(ended=time.time(), how=how, why=why, replayed=replayed)
    c.execute(update(attempts).where(attempts.c.case == case, attempts.c.fence == fence).values(values))


def settle(
    c: Connection, work: Work, outcome: Outcome, skill: str, version: str, flow_run: str, replayed: int = 0
) -> None:
    """Conclude a case: its outcome, the end of the attempt and of the lease, in one transaction."""
    case = work.case.id
    guard(c, case, work.fence, "settle it")
    c.execute(
        insert(outcomes).values(
            case=case,
            fence=work.fence,
            agent=work.case.agent,
            skill=skill,
            version=version,
            **outcome.model_dump(include={"kind", "answer", "confidence"}),
            rehearsed=work.dry_run,
            body=outcome.model_dump_json(),
            flow_run=flow_run,
            at=time.time(),
        )
    )
    clear = dict(state="settled", holder=None, reason="", errors=0, deaths=0, suspect=False, not_before=0.0)
    c.execute(update(cases).where(cases.c.id == case).values(clear))
    c.execute(update(agents).where(agents.c.name == work.case.agent, agents.c.fruitless > 0).values(fruitless=0))
    end_attempt(c, case, work.fence, "settled", outcome.note, replayed)


def park(c: Connection, work: Work, why: str, replayed: int = 0, wants: tuple[int, int] = (0, 0)) -> None:
    """Put a case aside until a person or a switch brings it back, or room for what it `wants` (nanodollars, tokens)."""
    guard(c, work.case.id, work.fence, "park it")
    values = dict(state="parked", holder=None, reason=why, wants=wants[0], wants_tokens=wants[1])
    c.execute(update(cases).where(cases.c.id == work.case.id).values(values))
    end_attempt(c, work.case.id, work.fence, "parked", why, replayed)


def hand_back(c: Connection, work: Work, why: str, error: bool, replayed: int = 0) -> str:
    """Give a case back unsettled; an error is tried again later and quarantined at the third. Returns its state."""
    case = work.case.id
    guard(c, case, work.fence, "hand it back")
    errors = c.execute(select(cases.c.errors).where(cases.c.id == case)).scalar_one() + (1 if error else 0)
    state = "quarantined" if errors >= ERRORS else "open"
    wait = BACKOFF_SECONDS[min(errors, len(BACKOFF_SECONDS)) - 1] if error else 0.0
    c.execute(
        update(cases)
        .where(cases.c.id == case)
        .values(state=state, holder=None, reason=why, errors=errors, not_before=time.time() + wait if wait else 0.0)
    )
    end_attempt(c, case, work.fence, "error" if error else "returned", why, replayed)
    return state


def come_back(c: Connection, work: Work, why: str, seconds: float, replayed: int = 0) -> str:
    """Give a case back without blame because a model asks for some rest. Returns its state."""
    case = work.case.id
    guard(c, case, work.fence, "hand it back")
    not_before = time.time() + min(seconds, LONGEST_BACKOFF)
    c.execute(
        update(cases).where(cases.c.id == case).values(state="open", holder=None, reason=why, not_before=not_before)
    )
    end_attempt(c, case, work.fence, "returned", why, replayed)
    return "open"


def try_later(c: Connection, work: Work, why: str, replayed: int = 0) -> str:
    """Give a case back whose effect the outside does not take now: it has a day for that. Returns its state."""
    case = work.case.id
    guard(c, case, work.fence, "hand it back")
    earlier = select(attempts.c.how).where(attempts.c.case == case, attempts.c.fence < work.fence)
    hows = c.execute(earlier.order_by(attempts.c.fence.desc())).scalars()
    tries = sum(1 for _ in takewhile(lambda how: how == "not sent", hows)) + 1
    state = "quarantined" if tries % OUTSIDE_TRIES == 0 else "open"
    wait = OUTSIDE_SECONDS[min(tries, len(OUTSIDE_SECONDS)) - 1]
    values = dict(state=state, holder=None, reason=why, not_before=time.time() + wait)
    c.execute(update(cases).where(cases.c.id == case).values(values))
    end_attempt(c, case, work.fence, "not sent", why, replayed)
    return state


def counts(c: Connection, agent: str) -> dict[str, int]:
    """Unsettled cases of an agent by state."""
    found = select(cases.c.state, func.count()).where(cases.c.agent == agent, unsettled()).group_by(cases.c.state)
    return {row[0]: row[1] for row in c.execute(found)}
