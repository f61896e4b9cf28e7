"""Requests and tokens of one minute, per key and model: shared by all processes, fair between agents."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, case, delete, extract, func, insert, select, update

from tasks.ledger.inserts import insert_or_nothing
from tasks.ledger.queues import rates
from tasks.ledger.tables import model_calls
from tasks.records import Rate

# A window over the calls themselves, not a bucket that refills: a bucket lets twice its size through in its first
# minute, and has to guess what calls under way will use. A call weighs the most it can use until it is answered, and
# from then on what it used, as `model_calls` says it. `rates` keeps only what the window still holds, so the count
# never gets slower with the years, and rows of a clock that was set anew are few enough to be put right.
WINDOW = 62.0  # seconds: a minute, and what one request may be longer on its way than another
UNDER_WAY = 2.0  # until it is worth a look whether calls under way used less than they could
MOMENT = 1.0  # while another agent, which waited longer, is to go first


class Want(NamedTuple):
    """A call that is about to be made."""

    account: str
    model: str
    agent: str
    tokens: int
    """The most that it can read and write."""
    rate: Rate


@dataclass(frozen=True)
class _Weight:
    requests: int = 0
    tokens: int = 0

    def __add__(self, other: _Weight) -> _Weight:
        return _Weight(self.requests + other.requests, self.tokens + other.tokens)

    def __sub__(self, other: _Weight) -> _Weight:
        return _Weight(self.requests - other.requests, self.tokens - other.tokens)


class _Called(NamedTuple):
    agent: str
    until: float
    weight: _Weight
    under_way: bool


def clock(c: Connection) -> float:
    """Seconds on the one clock that all processes of this ledger share; it is believed for no more than a window."""
    if c.dialect.name == "postgresql":
        return float(c.execute(select(extract("epoch", func.clock_timestamp()))).scalar_one())
    return time.monotonic()  # SQLite is for one machine; for whoever reads its rows, a reboot sets this clock back


def seconds_until_room(c: Connection, want: Want) -> float:
    """0 if the call may be made now; else for how long it has to wait, which is entered so that others leave it room.

    While several agents call or wait, none gets more than its share, and whoever waits longer goes first. A call that
    is larger than its share goes once nothing else of its agent is in the window, one larger than the limit once
    nothing at all is.
    """
    now = _set_right(c, want)
    calls, waits = _calls(c, want), _waits(c, want)
    agents = {one.agent for one in calls} | {one.agent for one in waits} | {want.agent}
    mine = next((one for one in waits if one.agent == want.agent), None)
    share = (want.rate.tokens_per_minute or 0) / len(agents)
    # A call that needs more than a share would never go if the small ones of its own agent did not wait for it.
    behind = mine is not None and mine.tokens > max(want.tokens, share)
    since = now if mine is None or behind else float(mine.at)
    older = [one for one in waits if (one.at, one.agent) < (since, want.agent)]
    ahead = _Weight(len(older), sum(one.tokens for one in older))
    seconds = _seconds(want, now, calls, len(agents), ahead)
    if not behind:
        c.execute(delete(rates).where(*_of(want), rates.c.agent == want.agent, rates.c.call == 0))
        if seconds:
            # Kept beyond the moment at which it shall come again: its agent's next tick may be a while later.
            _enter(c, want, 0, since, now + seconds + WINDOW)
    return seconds


def let_through(c: Connection, want: Want, number: int) -> None:
    """Count a call that was given room, in the same transaction."""
    now = clock(c)
    _enter(c, want, number, now, now + WINDOW)


def _seconds(want: Want, now: float, calls: list[_Called], agents: int, ahead: _Weight) -> float:
    total = sum((one.weight for one in calls), _Weight())
    own = sum((one.weight for one in calls if one.agent == want.agent), _Weight())
    if _fits(want, own, total, agents, ahead):
        return 0.0
    free = sum((_Weight(0, one.weight.tokens) for one in calls if one.under_way), _Weight())
    ours = [one for one in calls if one.under_way and one.agent == want.agent]
    back = sum((_Weight(0, one.weight.tokens) for one in ours), _Weight())
    soon = UNDER_WAY if _fits(want, own - back, total - free, agents, ahead) else WINDOW
    until = now
    for one in calls:  # those that leave the window first
        total -= one.weight
        if one.agent == want.agent:
            own -= one.weight
        until = one.until
        if _fits(want, own, total, agents, ahead):
            return min(until - now, soon)
    return min(max(until - now, MOMENT), soon)


def _fits(want: Want, own: _Weight, total: _Weight, agents: int, ahead: _Weight) -> bool:
    for limit, more, mine, all_, first in (
        (want.rate.requests_per_minute, 1, own.requests, total.requests, ahead.requests),
        (want.rate.tokens_per_minute, want.tokens, own.tokens, total.tokens, ahead.tokens),
    ):
        if limit is None:
            continue
        if mine and mine + more > limit / agents:
            return False
        if (all_ or first) and all_ + more + first > limit:
            return False
    return True


def _of(want: Want) -> tuple[ColumnElement[bool], ...]:
    return rates.c.account == want.account, rates.c.model == want.model


def _enter(c: Connection, want: Want, number: int, at: float, until: float) -> None:
    values = dict(account=want.account, model=want.model, agent=want.agent, call=number, at=at, until=until)
    c.execute(insert(rates).values(**values, tokens=want.tokens))


def _set_right(c: Connection, want: Want) -> float:
    """Lock this key and model for the transaction, drop what is over; returns the clock."""
    lock = dict(account=want.account, model=want.model, agent="", call=0, at=0.0, until=0.0)
    c.execute(insert_or_nothing(c, rates), lock)
    c.execute(select(rates.c.call).where(*_of(want), rates.c.agent == "").with_for_update())
    now, counted = clock(c), rates.c.agent != ""
    # A row from ahead is older than the clock, which was set back: it counts as of now, and holds nobody up for longer.
    ahead = (rates.c.at > now) | (rates.c.until > now + 2 * WINDOW)
    c.execute(update(rates).where(*_of(want), counted, ahead).values(at=now, until=now + WINDOW))
    c.execute(delete(rates).where(*_of(want), counted, rates.c.until <= now))
    return now


def _calls(c: Connection, want: Want) -> list[_Called]:
    """What the window holds, whatever leaves it first in front. A refused call was a request, of no tokens."""
    calls = model_calls.c
    # What was read from the provider's cache counts for its limits on none of the models here.
    used = calls.input_tokens + calls.cache_write + calls.output_tokens
    tokens = case((calls.state == "answered", used), (calls.state == "failed", 0), else_=calls.reserved_tokens)
    found = select(rates.c.agent, rates.c.until, tokens, calls.state).join(model_calls, calls.id == rates.c.call)
    rows = c.execute(found.where(*_of(want), rates.c.call > 0).order_by(rates.c.until))
    return [_Called(agent, until, _Weight(1, weight), state == "open") for agent, until, weight, state in rows]


def _waits(c: Connection, want: Want) -> list[Row[tuple[object, ...]]]:
    waiting = (rates.c.agent != "", rates.c.call == 0)
    return list(c.execute(select(rates.c.agent, rates.c.at, rates.c.tokens).where(*_of(want), *waiting)).all())
