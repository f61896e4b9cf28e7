"""What a source brings: cases, notes that it finds again, and signals about what became of earlier cases."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from pydantic import JsonValue
from sqlalchemy import Connection, and_, bindparam, delete, func, select, update

from tasks.ledger.inserts import insert_or_nothing
from tasks.ledger.tables import cases, markers, notes, outcomes, signals, unfinished, unheard, verdicts
from tasks.records import Arrival, Note, Signal

_LATER = outcomes.alias("later")
NEWEST = select(func.max(_LATER.c.id)).where(_LATER.c.case == cases.c.id).correlate(cases).scalar_subquery()
WHY = 500  # characters, as of any verdict


class Concluded(NamedTuple):
    """What came of a case, as its source may ask."""

    kind: str
    answer: str
    rehearsed: bool
    at: float
    """Seconds since 1970 in UTC."""


def seen(c: Connection, source: str, names: Sequence[str]) -> set[str]:
    """Those of a source's markers that were recorded before."""
    found = select(markers.c.marker).where(markers.c.source == source, markers.c.marker.in_(names))
    return set(c.execute(found).scalars())


def recall(c: Connection, source: str, prefix: str) -> dict[str, JsonValue]:
    """A source's notes whose name begins with a prefix."""
    named = func.substr(notes.c.name, 1, len(prefix)) == prefix  # LIKE would ignore case on SQLite
    found = select(notes.c.name, notes.c.value).where(notes.c.source == source, named).order_by(notes.c.name)
    return {row.name: json.loads(row.value) for row in c.execute(found)}


def concluded(c: Connection, source: str, keys: Sequence[str]) -> Mapping[str, Concluded]:
    """The newest outcome of each of a source's cases that has one."""
    found = (
        select(cases.c.key, outcomes.c.kind, outcomes.c.answer, outcomes.c.rehearsed, outcomes.c.at)
        .select_from(cases)
        .join(outcomes, outcomes.c.id == NEWEST)
        .where(cases.c.source == source, cases.c.key.in_(keys))
    )
    return {row[0]: Concluded(*row[1:]) for row in c.execute(found)}


def record(c: Connection, agent: str, source: str, found: Iterable[Arrival | Note | Signal]) -> int:
    """Enter what a source brought, in its order; what it brought before stays. Returns how many cases are new."""
    new = 0
    # Notes that follow each other are written together: a storm brings thousands.
    for is_note, some in groupby(found, lambda one: isinstance(one, Note)):
        if is_note:
            _remember(c, source, {one.name: one.value for one in some if isinstance(one, Note)})
        else:
            new += _enter_all(c, agent, source, some)
    return new


def _enter_all(c: Connection, agent: str, source: str, found: Iterable[Arrival | Note | Signal]) -> int:
    new = 0
    for one in found:
        if isinstance(one, Signal):
            row = one.model_dump(exclude={"at", "why"}) | dict(source=source, at=one.at.timestamp(), why=one.why[:WHY])
            c.execute(insert_or_nothing(c, signals).values(row))
        elif isinstance(one, Arrival):
            new += _enter(c, agent, source, one)
    return new


def _enter(c: Connection, agent: str, source: str, one: Arrival) -> int:
    body = one.model_dump(mode="json", exclude={"marker"})
    row: dict[str, object] = dict(agent=agent, source=source, key=one.key, thread=one.thread)
    row |= dict(body=json.dumps(body), recorded=time.time(), sender=one.sender)
    new = c.execute(insert_or_nothing(c, cases).values(row)).rowcount
    case = c.execute(select(cases.c.id).where(cases.c.source == source, cases.c.key == one.key)).scalar_one()
    c.execute(insert_or_nothing(c, markers).values(source=source, marker=one.marker, case=case))
    return new


_CHANGE = (
    update(notes)
    .where(notes.c.source == bindparam("of"), notes.c.name == bindparam("named"))
    .values(value=bindparam("now"))
)


def _remember(c: Connection, source: str, values: Mapping[str, JsonValue]) -> None:
    if forgotten := [name for name, value in values.items() if value is None]:
        c.execute(delete(notes).where(notes.c.source == source, notes.c.name.in_(forgotten)))
    kept = {name: json.dumps(value) for name, value in values.items() if value is not None}
    if kept:
        c.execute(insert_or_nothing(c, notes), [dict(source=source, name=n, value=v) for n, v in kept.items()])
        c.execute(_CHANGE, [dict(of=source, named=n, now=v) for n, v in kept.items()])


def hear(c: Connection, source: str) -> int:
    """Make verdicts of the signals whose case has an outcome by now: its newest. Returns how many.

    One that came before there was any outcome waits for the first and is about that, so that none is lost.
    """
    waiting = (
        select(signals, outcomes.c.id.label("about"), outcomes.c.at.label("concluded"))
        .join(cases, and_(cases.c.source == signals.c.source, cases.c.key == signals.c.key))
        .join(outcomes, outcomes.c.id == NEWEST)
        .where(unheard(), signals.c.source == source)
        .order_by(signals.c.id)
    )
    found = c.execute(waiting).all()
    for one in found:
        row = dict(outcome=one.about, source="signal", auditor=one.what, right=one.right, why=one.why)
        # Nobody could know it before there was anything to be right or wrong about.
        row |= dict(key=f"signal/{one.what}/{one.id}", at=max(one.at, one.concluded))
        c.execute(insert_or_nothing(c, verdicts).values(row))
        c.execute(update(signals).where(signals.c.id == one.id).values(outcome=one.about))
    return len(found)


def to_hear(c: Connection, source: str) -> bool:
    """Whether any signal of a source waits for the outcome that it is about."""
    return c.execute(select(signals.c.id).where(unheard(), signals.c.source == source).limit(1)).first() is not None


def to_finish(c: Connection, source: str, most: int) -> list[str]:
    """Markers of cases that are settled and were no rehearsal, and that the source was not told about."""
    found = (
        select(markers.c.marker)
        .join(cases, cases.c.id == markers.c.case)
        .join(outcomes, outcomes.c.id == NEWEST)
        .where(unfinished(), markers.c.source == source, cases.c.state == "settled", ~outcomes.c.rehearsed)
        .order_by(markers.c.case, markers.c.marker)
        .limit(most)
    )
    return list(c.execute(found).scalars())


def finished(c: Connection, source: str, names: Sequence[str]) -> None:
    """The source was told that these are settled."""
    told = (markers.c.source == source, markers.c.marker.in_(names))
    c.execute(update(markers).where(*told).values(finished=True))
