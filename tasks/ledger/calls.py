"""Model calls: money is set aside before one begins, booked once when it ends, and never given out beyond a limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, delete, exists, insert, select, update

from tasks.ledger.cases import Work, guard
from tasks.ledger.inserts import insert_or_nothing
from tasks.ledger.queues import later
from tasks.ledger.rates import Want, let_through, seconds_until_room
from tasks.ledger.tables import cases, model_calls, spending, unsettled
from tasks.records import Rate, Usage

CHEAPER = 10  # calls cost a fraction of what is set aside for them: so many times the room is given back to at once

Place = tuple[str, str, str]
"""Scope (agent, skill or case), name and UTC day ('' for all days together) of one sum."""


class Limit(NamedTuple):
    """What may be spent in one place; None where there is no limit."""

    place: Place
    usd: int | None
    """Nanodollars."""
    tokens: int | None


class Call(NamedTuple):
    """A call that is about to be made, and what it can not exceed."""

    step: str
    key: str
    skill: str
    version: str
    holder: str
    model: str
    usd: int
    """Nanodollars."""
    tokens: int
    batch: bool = False
    account: str = ""
    """Whose minute it falls into: the beginning of the key's sha256."""
    rate: Rate = Rate()
    asked: str = ""
    """Digest of all that is asked, whichever model gets it."""


class Kept(NamedTuple):
    """An answer that was paid for by a process that died before it could store the step."""

    model: str
    reply: str
    """JSON."""


class Full(NamedTuple):
    """A call has to wait, because the minute of its model is full or another agent is to go first."""

    seconds: float


class Short(NamedTuple):
    """Why a call may not be made now."""

    limit: Limit
    left: int
    unit: str
    soon: bool
    """Whether there is room once the calls under way cost less than was set aside for them."""


def today() -> str:
    return day_of(time.time())


def day_of(moment: float) -> str:
    """The UTC day of a moment in seconds since 1970."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}"


def places(agent: str, skill: str, case: int, day: str) -> list[Place]:
    """Every sum that a call of this case belongs to, in the order in which their rows are locked."""
    return [("agent", agent, day), ("agent", agent, ""), ("case", str(case), ""), ("skill", f"{agent}/{skill}", day)]


def reserve(
    c: Connection, work: Work, call: Call, limits_of: Callable[[str], Sequence[Limit]]
) -> int | Kept | Short | Full:
    """Set a call's dearest price aside in every place; its number, or the limit that it would pass.

    Nothing is set aside for a call that has to wait: others may have that money meanwhile; nor for one that was
    answered before.
    """
    guard(c, work.case.id, work.fence, f"ask a model for {call.step}")
    if call.asked and (kept := _taken_over(c, work, call)):
        return kept
    # One look at the clock: around midnight two could count it on one day under the limits of the other.
    began = time.time()
    day = day_of(began)
    limited = {one.place: one for one in limits_of(day)}
    mine = places(work.case.agent, call.skill, work.case.id, day)
    for place in mine:
        row = _locked(c, place)
        if limit := limited.get(place):
            for unit, most, wanted, used, open_, more in (
                ("usd", limit.usd, call.usd, row.usd, row.usd_open, row.usd_more),
                ("tokens", limit.tokens, call.tokens, row.tokens, row.tokens_open, row.tokens_more),
            ):
                if most is not None and wanted > (left := most + more - used - open_):
                    return Short(limit, left, unit, soon=wanted <= left + open_)
    want = Want(call.account, call.model, work.case.agent, call.tokens, call.rate)
    governed = call.rate.limited and not call.batch
    if governed and (seconds := seconds_until_room(c, want)):
        return Full(seconds)
    _add(c, mine, usd_open=call.usd, tokens_open=call.tokens)
    values = dict(
        case=work.case.id,
        agent=work.case.agent,
        skill=call.skill,
        version=call.version,
        step=call.step,
        key=call.key,
        fence=work.fence,
        holder=call.holder,
        model=call.model,
        batch=call.batch,
        state="open",
        reserved=call.usd,
        reserved_tokens=call.tokens,
        began=began,
        asked=call.asked,
    )
    number = int(c.execute(insert(model_calls).values(values).returning(model_calls.c.id)).scalar_one())
    if governed:
        let_through(c, want, number)
    return number


def _taken_over(c: Connection, work: Work, call: Call) -> Kept | None:
    """The answer that another process got to this question for a step that it did not come to store."""
    # Not this process's own: a step that asks the same question twice wants two answers.
    same = (model_calls.c.asked == call.asked, model_calls.c.reply != "", model_calls.c.holder != call.holder)
    found = select(model_calls).where(model_calls.c.case == work.case.id, model_calls.c.key == call.key, *same)
    row = c.execute(found.order_by(model_calls.c.id).limit(1)).one_or_none()
    if row is None:
        return None
    mine = dict(holder=call.holder, fence=work.fence, replays=model_calls.c.replays + 1)
    c.execute(update(model_calls).where(model_calls.c.id == row.id).values(mine))
    return Kept(row.model, row.reply)


def forget_answers(c: Connection, case: int, keys: Collection[str] | None = None) -> None:
    """Drop what models told a case, or these steps of it: they are stored, or shall ask anew."""
    mine = [model_calls.c.case == case] if keys is None else [model_calls.c.case == case, model_calls.c.key.in_(keys)]
    made = select(model_calls.c.id).where(*mine, model_calls.c.batch)
    c.execute(delete(later).where(later.c.case == case, later.c.state == "answered", later.c.call.in_(made)))
    c.execute(update(model_calls).where(*mine, model_calls.c.reply != "").values(reply=""))


def answered(
    c: Connection, number: int, response: str, used: Usage, usd: int, saved_by_cache: int, reply: str = ""
) -> bool:
    """Book a response, once; False if it was booked before. A late one is booked too: it was paid."""
    row = c.execute(select(model_calls).where(model_calls.c.id == number).with_for_update()).one()
    booked = c.execute(select(model_calls.c.id).where(model_calls.c.response == response)).scalar()
    if row.state not in ("open", "lost") or booked is not None:
        return False
    tokens = used.prompt + used.output_tokens
    _close(c, row, usd, tokens)
    values = dict(
        state="answered",
        response=response,
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cache_write=used.cache_write_5m + used.cache_write_1h,
        cache_read=used.cache_read,
        spent=usd,
        saved_by_cache=saved_by_cache,
        ended=time.time(),
        why="",
        reply=reply,
    )
    c.execute(update(model_calls).where(model_calls.c.id == number).values(values))
    return True


def failed(c: Connection, number: int, why: str) -> None:
    """End a call that the provider refused and did not charge for."""
    row = c.execute(select(model_calls).where(model_calls.c.id == number).with_for_update()).one()
    if row.state == "open":
        _close(c, row, 0, 0)
        _mark(c, number, "failed", why)


def lost(c: Connection, number: int, why: str) -> None:
    """End a call of which nobody knows whether it was charged: its dearest price stays counted."""
    row = c.execute(select(model_calls).where(model_calls.c.id == number).with_for_update()).one()
    if row.state == "open":
        _close(c, row, row.reserved, row.reserved_tokens)
        _mark(c, number, "lost", why)


def lose_calls_of(c: Connection, holder: str) -> None:
    """What a process that ended was still waiting for."""
    waiting = select(model_calls.c.id).where(model_calls.c.holder == holder, model_calls.c.state == "open")
    for number in c.execute(waiting.order_by(model_calls.c.id)).scalars().all():
        lost(c, number, "its process ended before the answer came")


def replayed(c: Connection, case: int, keys: Iterable[str]) -> None:
    """Note that these steps were served from the ledger: their calls were not paid again."""
    mine = (model_calls.c.case == case, model_calls.c.key.in_(list(keys)), model_calls.c.state == "answered")
    c.execute(update(model_calls).where(*mine).values(replays=model_calls.c.replays + 1))


def top_up(c: Connection, place: Place, usd: int, tokens: int) -> None:
    """Add to a limit, for its day alone."""
    _locked(c, place)
    _add(c, [place], usd_more=usd, tokens_more=tokens)


def short_of_money(c: Connection, agent: str) -> bool:
    """Whether a case of this agent waits for room under a limit."""
    return bool(c.execute(select(exists().where(*_waiting(agent)))).scalar())


def reopen(c: Connection, agent: str, limits_of: Callable[[int], Sequence[Limit]]) -> int:
    """Give back cases that were parked for want of money or tokens, as many as there is room for now."""
    room: dict[Place, list[float]] = {}
    asked: dict[Place, list[float]] = {}
    back = 0
    for case in c.execute(select(cases).where(*_waiting(agent)).order_by(cases.c.id)).all():
        under = {one.place: one for one in limits_of(case.id)}
        mine = [one for one in places(agent, case.skill, case.id, today()) if one in under]
        wants = (case.wants, case.wants_tokens)
        for place in mine:
            if place not in room:
                room[place], asked[place] = _room(c, under[place]), [0.0, 0.0]
        fits = all(wants[unit] <= room[place][unit] for place in mine for unit in (0, 1))
        many = any(asked[place][unit] + wants[unit] > CHEAPER * room[place][unit] for place in mine for unit in (0, 1))
        if fits and not many:
            for place in mine:
                asked[place] = [asked[place][unit] + wants[unit] for unit in (0, 1)]
            values = dict(state="open", reason="", wants=0, wants_tokens=0)
            c.execute(update(cases).where(cases.c.id == case.id).values(values))
            back += 1
    return back


def _waiting(agent: str) -> tuple[ColumnElement[bool], ...]:
    wants = (cases.c.wants > 0) | (cases.c.wants_tokens > 0)
    return unsettled(), cases.c.agent == agent, cases.c.state == "parked", wants


def _room(c: Connection, limit: Limit) -> list[float]:
    row = _locked(c, limit.place)
    usd = float("inf") if limit.usd is None else limit.usd + row.usd_more - row.usd - row.usd_open
    tokens = float("inf") if limit.tokens is None else limit.tokens + row.tokens_more - row.tokens - row.tokens_open
    return [usd, tokens]


def _locked(c: Connection, place: Place) -> Row[tuple[object, ...]]:
    """The row of a place, made if there is none, and locked until the end of the transaction."""
    scope, name, day = place
    c.execute(insert_or_nothing(c, spending), dict(scope=scope, name=name, day=day))
    return c.execute(select(spending).where(*_at(place)).with_for_update()).one()


def _at(place: Place) -> tuple[ColumnElement[bool], ...]:
    scope, name, day = place
    return spending.c.scope == scope, spending.c.name == name, spending.c.day == day


def _add(c: Connection, where: Iterable[Place], **amounts: int) -> None:
    more = {name: spending.c[name] + amount for name, amount in amounts.items()}
    for place in where:
        c.execute(update(spending).where(*_at(place)).values(more))


def _close(c: Connection, row: Row[tuple[object, ...]], usd: int, tokens: int) -> None:
    """Move a call's money from set aside to spent, on the day on which it was set aside."""
    mine = places(row.agent, row.skill, row.case, day_of(row.began))
    if row.state == "lost":  # counted at its dearest until now
        _add(c, mine, usd=usd - row.reserved, tokens=tokens - row.reserved_tokens)
    else:
        _add(c, mine, usd=usd, tokens=tokens, usd_open=-row.reserved, tokens_open=-row.reserved_tokens)


def _mark(c: Connection, number: int, state: str, why: str) -> None:
    c.execute(
        update(model_calls).where(model_calls.c.id == number).values(state=state, ended=time.time(), why=why[:500])
    )
