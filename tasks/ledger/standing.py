"""What counts of the verdicts at a moment: the newest word of each auditor, and one joint truth per outcome."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, Subquery, and_, case, func, null, select

from tasks.ledger.tables import verdicts
from tasks.ledger.verdicts import Source, chunks

WEIGHT: dict[Source, int] = {"person": 1, "signal": 2, "judge": 3}  # the least is heard alone


class Truth(NamedTuple):
    """What the verdicts on one outcome come to."""

    outcome: int
    right: bool | None
    """None: as many auditors of the source that decides say the one as the other."""
    label: str
    """What the answer should have been, by those whose word counts; empty if none said so or they do not agree."""
    source: Source
    """Who decides: a `signal` and a `judge` are weaker than a person, and stand only where no person spoke."""
    for_it: int
    """Auditors of that source who say that it was right."""
    against_it: int


def newest_words(among: Select[tuple[int]] | None, as_of: float) -> Subquery:
    """The newest verdict of each auditor on each outcome among those ids (None: all), said up to `as_of`.

    Beside the columns of `verdicts` it has `counts`: whether no source that weighs more spoke of the outcome.
    """
    weight = case(WEIGHT, value=verdicts.c.source)
    each = (verdicts.c.outcome, verdicts.c.source, verdicts.c.auditor)
    nth = func.row_number().over(partition_by=each, order_by=verdicts.c.id.desc())
    first = func.min(weight).over(partition_by=verdicts.c.outcome)
    said = select(verdicts, nth.label("nth"), (weight == first).label("counts")).where(verdicts.c.at <= as_of)
    if among is not None:
        said = said.where(verdicts.c.outcome.in_(among))
    all_of = said.subquery("said").c
    kept = (all_of[column.name] for column in verdicts.c)
    return select(*kept, all_of.counts).where(all_of.nth == 1).subquery("newest")


def truths(among: Select[tuple[int]] | None, as_of: float) -> Subquery:
    """One row per outcome with a verdict, in the columns of `Truth`, to be joined to others: 1,000,000 at once.

    People's word counts alone where there is one, then signals, then judges; among those the majority of auditors.
    A tie is NULL: unresolved, to be reported as such.
    """
    said = newest_words(among, as_of).c
    for_it, against_it = func.sum(case((said.right, 1), else_=0)), func.sum(case((said.right, 0), else_=1))

    def agreed(right: bool) -> ColumnElement[str]:
        voices = case((and_(said.right.is_(right), said.label != ""), said.label))
        return case((func.min(voices) == func.max(voices), func.min(voices)), else_="")

    more, less = for_it > against_it, for_it < against_it
    return (
        select(
            said.outcome,
            case((more, True), (less, False), else_=null()).label("right"),
            case((more, agreed(True)), (less, agreed(False)), else_="").label("label"),
            said.source,
            for_it.label("for_it"),
            against_it.label("against_it"),
        )
        .where(said.counts)
        .group_by(said.outcome, said.source)
        .subquery("truths")
    )


def standing(c: Connection, among: Iterable[int] | Select[tuple[int]] | None, as_of: float) -> dict[int, Truth]:
    """The joint truth of each outcome that somebody spoke of, by its id; `among` as ids, as a SELECT of ids, or all."""
    if among is None or isinstance(among, Select):
        return _read(c, among, as_of)
    found: dict[int, Truth] = {}
    for some in chunks(sorted(set(among))):
        found |= _read(c, select(verdicts.c.outcome).where(verdicts.c.outcome.in_(some)), as_of)
    return found


def _read(c: Connection, among: Select[tuple[int]] | None, as_of: float) -> dict[int, Truth]:
    one = truths(among, as_of).c
    return {row.outcome: Truth(*row) for row in c.execute(select(*(one[name] for name in Truth._fields)))}
