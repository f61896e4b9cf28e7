"""Questions that wait for a batch: queued with their money, bound to one batch, answered or failed once."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, exists, insert, literal_column, select, update

from tasks.ledger.calls import Call, Limit, Short, answered, failed, lost, reserve
from tasks.ledger.cases import Work, guard
from tasks.ledger.holders import proved_dead
from tasks.ledger.queues import batches, later
from tasks.records import Usage

LARGEST = 64 * 1024 * 1024  # bytes of requests in one batch: a quarter of what the provider takes
MOST = 10_000  # requests in one batch: a tenth of what the provider takes
QUEUED_SECONDS = 86_400.0  # as long as the provider would work on it

Cost = Callable[[str, Usage], tuple[int, int]]
"""Of a model's usage: nanodollars, and nanodollars saved by the cache."""


class Result(NamedTuple):
    """What became of one item of a batch."""

    custom_id: str
    response: str
    """The provider's id of the message; empty if there is none."""
    reply: str
    """JSON."""
    used: Usage
    status: int
    """Of an item that failed, as HTTP has it; 0 if it was never worked on."""
    why: str


class Batch(NamedTuple):
    """A batch that was made here and is not known to have ended."""

    id: int
    provider: str
    """The provider's id; empty while nobody knows whether it is there."""
    items: int
    made: float
    gone: bool
    """Whether nothing more can come from the process that made it."""


class Item(NamedTuple):
    """A request of a batch."""

    custom_id: str
    model: str
    request: str
    """JSON."""


def found(c: Connection, case: int, asked: str) -> Row[tuple[Any, ...]] | None:
    """What became of a question; None if it was not asked yet."""
    return c.execute(select(later).where(later.c.case == case, later.c.asked == asked)).one_or_none()


def queue(
    c: Connection, work: Work, call: Call, limits_of: Callable[[str], Sequence[Limit]], asked: str, request: str
) -> Short | None:
    """Set the money aside and queue the question, or queue it again if it failed; the limit that it would pass."""
    guard(c, work.case.id, work.fence, f"ask a model for {call.step}")
    old = found(c, work.case.id, asked)
    if old is not None and old.state != "failed":
        return None
    number = reserve(c, work, call, limits_of)
    if isinstance(number, Short):
        return number
    assert isinstance(number, int), "a batch is not held up by the limits of a minute, and keeps its answers itself"
    # A name for this try alone: no late result of an earlier one, or of another installation's case, is taken for it.
    name = hashlib.sha256(f"{call.key} {asked} {uuid.uuid4()}".encode()).hexdigest()
    values = dict(custom_id=name, model=call.model, request=request, call=number, batch=None, state="queued")
    values |= dict(reply="", status=0, why="", at=time.time())
    if old is None:
        c.execute(insert(later).values(case=work.case.id, agent=work.case.agent, asked=asked, **values))
    else:
        c.execute(update(later).where(later.c.id == old.id).values(tries=later.c.tries + 1, **values))
    return None


def give_up(c: Connection, work: Work, asked: str) -> None:
    """Forget a question that failed, so that whoever releases its case lets it be asked afresh."""
    guard(c, work.case.id, work.fence, "give a question up")
    c.execute(delete(later).where(later.c.case == work.case.id, later.c.asked == asked, later.c.state == "failed"))


def anything(c: Connection, agent: str) -> bool:
    """Whether something of this agent is queued, or in a batch."""
    mine = exists().where(batches.c.agent == agent, batches.c.state.in_(_literals("made", "sent")))
    return bool(c.execute(select(exists().where(*_queued(agent)) | mine)).scalar())


def bind(c: Connection, agent: str, holder: str) -> tuple[int, list[Item]]:
    """Make a batch of what is queued, before the provider hears of it; its number and items, or 0 and none."""
    # Whatever nobody could send for a day fails as if the provider had let it expire.
    old = (*_queued(agent), later.c.at < time.time() - QUEUED_SECONDS)
    for row in c.execute(select(later).where(*old)).all():
        _fail(c, row, 0, "it could not be sent for a day")
    wanted = select(later).where(*_queued(agent)).order_by(later.c.id).limit(MOST)
    rows: list[Row[tuple[Any, ...]]] = []
    size = 0
    for row in c.execute(wanted.with_for_update()):
        size += len(row.request.encode())
        if rows and size > LARGEST:
            break
        rows.append(row)
    if not rows:
        return 0, []
    values = dict(agent=agent, holder=holder, state="made", items=len(rows), made=time.time())
    number = int(c.execute(insert(batches).values(values).returning(batches.c.id)).scalar_one())
    ids = [row.id for row in rows]
    c.execute(update(later).where(later.c.id.in_(ids)).values(batch=number, state="sent"))
    return number, [Item(row.custom_id, row.model, row.request) for row in rows]


def is_there(c: Connection, batch: int, provider: str) -> None:
    """Keep the provider's id of a batch."""
    mine = (batches.c.id == batch, batches.c.state == "made")
    c.execute(update(batches).where(*mine).values(state="sent", provider=provider))


def is_not_there(c: Connection, batch: int, why: str) -> None:
    """The provider has no such batch: its items are queued again."""
    if _end(c, batch, "made", "refused", why):
        c.execute(update(later).where(later.c.batch == batch, later.c.state == "sent").values(state="queued"))


def is_refused(c: Connection, batch: int, status: int, why: str) -> None:
    """The provider will not take these requests, and charged for none."""
    if _end(c, batch, "made", "refused", why):
        for row in _sent(c, batch):
            _fail(c, row, status, why)


def open_batches(c: Connection, agent: str) -> list[Batch]:
    """Batches of this agent that may be at work, oldest first."""
    mine = (batches.c.agent == agent, batches.c.state.in_(_literals("made", "sent")))
    rows = c.execute(select(batches).where(*mine).order_by(batches.c.id)).all()
    return [Batch(r.id, r.provider or "", r.items, r.made, r.state == "sent" or proved_dead(c, r.holder)) for r in rows]


def known(c: Connection, providers: Sequence[str]) -> set[str]:
    """Those of the provider's batches that the ledger knows as its own."""
    return set(c.execute(select(batches.c.provider).where(batches.c.provider.in_(providers))).scalars())


def is_ours(c: Connection, batch: int, custom_id: str) -> bool:
    """Whether this batch was made with such an item."""
    return bool(c.execute(select(exists().where(later.c.batch == batch, later.c.custom_id == custom_id))).scalar())


def book(c: Connection, batch: int, results: Sequence[Result], cost: Cost) -> None:
    """Enter what became of items, each once, in whatever order they come."""
    for one in results:
        mine = (later.c.batch == batch, later.c.custom_id == one.custom_id, later.c.state == "sent")
        row = c.execute(select(later).where(*mine).with_for_update()).one_or_none()
        if row is None:
            continue  # booked before a kill
        if not one.response:
            _fail(c, row, one.status, one.why)
            continue
        usd, saved = cost(row.model, one.used)
        answered(c, row.call, one.response, one.used, usd, saved)
        c.execute(update(later).where(later.c.id == row.id).values(state="answered", reply=one.reply, request=""))


def has_ended(c: Connection, batch: int, why: str = "") -> None:
    """Close a batch. Of an item without a result nobody knows whether it was charged."""
    if _end(c, batch, "sent", "ended", why):
        for row in _sent(c, batch):
            lost(c, row.call, why or "the batch ended without a result for it")
            _fail(c, row, 0, why or "the batch ended without a result for it")


def _literals(*values: str) -> list[Any]:
    return [literal_column(f"'{value}'") for value in values]  # as in the partial indexes


def _queued(agent: str) -> tuple[Any, ...]:
    return later.c.agent == agent, later.c.state == literal_column("'queued'")


def _sent(c: Connection, batch: int) -> Sequence[Row[tuple[Any, ...]]]:
    mine = (later.c.batch == batch, later.c.state == "sent")
    return c.execute(select(later).where(*mine).order_by(later.c.id).with_for_update()).all()


def _end(c: Connection, batch: int, was: str, state: str, why: str) -> bool:
    values = dict(state=state, why=why[:500])
    return c.execute(update(batches).where(batches.c.id == batch, batches.c.state == was).values(values)).rowcount == 1


def _fail(c: Connection, row: Row[tuple[Any, ...]], status: int, why: str) -> None:
    failed(c, row.call, f"batch: {why}")
    c.execute(update(later).where(later.c.id == row.id).values(state="failed", status=status, why=why[:500]))
