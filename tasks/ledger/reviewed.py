"""What the review reads: outcomes counted by week and stratum in SQL, and what is known of those it drew."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Integer, and_, case, cast, exists, func, insert, select, update

from tasks.ledger.inserts import insert_or_nothing
from tasks.ledger.standing import newest_words, truths
from tasks.ledger.tables import agents, audits, model_calls, outcomes, reviews, verdicts

WEEK = 604_800
MONDAY = 345_600
"""1970-01-05, from which weeks are counted, in seconds since 1970."""
TOLD = "told/"
"""Begins the names of strata of which people told every outcome before the draw, such as all that they took over."""
BANDS = 20
"""Bands of confidence, all of the same width."""


class Cell(NamedTuple):
    """Outcomes that have all of this in common."""

    week: int
    """Weeks since 1970-01-05."""
    skill: str
    version: str
    kind: str
    answer: str
    band: int
    """From 0 to BANDS - 1; -1 where the skill gave no confidence."""
    outcomes: int


class Audited(NamedTuple):
    """An outcome that was drawn, and what people found."""

    outcome: int
    case: int
    week: int
    """Of the plan that drew it, as `Cell.week`."""
    stratum: str
    chance: float
    skill: str
    version: str
    kind: str
    answer: str
    confidence: float | None
    right: bool | None
    """Whether acting on it was right, or would have been, by people's word; None if nobody said, or they disagree."""
    label: str
    asked: float


class Open(NamedTuple):
    """An outcome that somebody shall look at."""

    period: str
    case: int
    kind: str
    answer: str
    confidence: float | None
    skill: str
    version: str
    flow_run: str
    chance: float
    because: str
    """As in `Wrong`."""


class Wrong(NamedTuple):
    """An outcome that acted and should not have, drawn or not."""

    case: int
    answer: str
    confidence: float | None
    skill: str
    version: str
    label: str
    source: str
    flow_run: str
    because: str
    """What its conclusion leant on: places, such as `knowledge/refunds#2`, and no words of a customer's."""


class Window(NamedTuple):
    """The outcomes of an agent in [since, until), as they stood at `as_of`; seconds since 1970."""

    agent: str
    since: float
    until: float
    as_of: float


def week_of(moment: float) -> int:
    """The number of a moment's week, from Monday 00:00 UTC."""
    return int((moment - MONDAY) // WEEK)


def name_of(week: int) -> str:
    """A week by its first UTC day, as plans are named."""
    return f"{datetime.fromtimestamp(begins(week), UTC):%Y-%m-%d}"


def week_named(day: str) -> int:
    """The week that begins on this UTC day."""
    return week_of(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())


def begins(week: int) -> float:
    """The first moment of a week."""
    return float(week * WEEK + MONDAY)


def concluded(window: Window) -> tuple[ColumnElement[bool], ...]:
    """Conditions on `outcomes`: live ones, each case counted once, by its last."""
    later = outcomes.alias("later")
    overtaken = exists().where(
        later.c.case == outcomes.c.case, later.c.id > outcomes.c.id, ~later.c.rehearsed, later.c.at < window.as_of
    )
    within = (outcomes.c.at >= window.since, outcomes.c.at < min(window.until, window.as_of))
    return outcomes.c.agent == window.agent, *within, ~outcomes.c.rehearsed, ~overtaken


def _week() -> ColumnElement[int]:
    return cast(func.floor((outcomes.c.at - MONDAY) / WEEK), Integer)


def band_of(confidence: float | None) -> int:
    """As the database has it."""
    return -1 if confidence is None else min(int(confidence * BANDS), BANDS - 1)


def count(c: Connection, window: Window) -> list[Cell]:
    """Every outcome of a window, added up; as many rows as there are different ones, however many outcomes."""
    sure = cast(func.floor(outcomes.c.confidence * BANDS), Integer)
    band = case((outcomes.c.confidence.is_(None), -1), (sure >= BANDS, BANDS - 1), else_=sure)
    by = (_week().label("week"), outcomes.c.skill, outcomes.c.version, outcomes.c.kind, outcomes.c.answer)
    found = select(*by, band.label("band"), func.count()).where(*concluded(window))
    numbered = [*by, band]
    return [Cell(*row) for row in c.execute(found.group_by(*numbered).order_by(*numbered)).all()]


def one_by_one(c: Connection, window: Window) -> Iterator[tuple[int, str, str, str, float | None]]:
    """Id, kind, skill, version and confidence of every outcome of a window, in the order of their ids."""
    columns = [outcomes.c[name] for name in ("id", "kind", "skill", "version", "confidence")]
    found = select(*columns).where(*concluded(window)).order_by(outcomes.c.id)
    for row in c.execute(found.execution_options(yield_per=5_000)):
        yield row.id, row.kind, row.skill, row.version, row.confidence


def audited(c: Connection, window: Window) -> list[Audited]:
    """Everything of a window that plans drew before it was reviewed."""
    drawn = select(audits.c.outcome).where(audits.c.agent == window.agent)
    found_by_people = truths(drawn, window.as_of)
    joined = audits.join(outcomes, outcomes.c.id == audits.c.outcome).join(
        found_by_people,
        (found_by_people.c.outcome == audits.c.outcome) & (found_by_people.c.source == "person"),
        isouter=True,
    )
    columns = [outcomes.c[name] for name in ("skill", "version", "kind", "answer", "confidence")]
    found = (
        select(outcomes.c.id, outcomes.c.case, audits.c.period, audits.c.stratum, audits.c.chance, *columns)
        .add_columns(found_by_people.c.right, func.coalesce(found_by_people.c.label, ""), audits.c.asked)
        .select_from(joined)
        .where(*concluded(window), audits.c.asked <= window.as_of)
        .order_by(audits.c.period, audits.c.stratum, outcomes.c.id)
    )
    rows = c.execute(found).all()
    return [Audited(row[0], row[1], week_named(row.period), *row[3:]) for row in rows]


def settled_by_people(c: Connection, window: Window) -> set[int]:
    """The outcomes of a window on which people have a joint word, drawn or not."""
    told = truths(None, window.as_of)
    joined = outcomes.join(told, told.c.outcome == outcomes.c.id)
    clear = (told.c.source == "person", told.c.right.is_not(None))
    return set(c.execute(select(outcomes.c.id).select_from(joined).where(*concluded(window), *clear)).scalars())


def open_audits(c: Connection, window: Window) -> list[Open]:
    """What was drawn from a window and no person spoke of yet, the newest week first."""
    said = exists().where(verdicts.c.outcome == outcomes.c.id, verdicts.c.source == "person")
    columns = [outcomes.c[name] for name in ("case", "kind", "answer", "confidence", "skill", "version", "flow_run")]
    found = (
        select(audits.c.period, *columns, audits.c.chance, outcomes.c.body)
        .select_from(audits.join(outcomes, outcomes.c.id == audits.c.outcome))
        .where(*concluded(window), ~said)
        .order_by(audits.c.period.desc(), outcomes.c.id)
    )
    rows: list[Any] = list(c.execute(found).all())
    return [Open._make([*row[:-1], _because(row.body)]) for row in rows]


def wrong_ones(c: Connection, window: Window, most: int) -> list[Wrong]:
    """What acted wrongly by anybody's word, the surest first."""
    told = truths(None, window.as_of)
    columns = [outcomes.c[name] for name in ("case", "answer", "confidence", "skill", "version")]
    found = (
        select(*columns, told.c.label, told.c.source, outcomes.c.flow_run, outcomes.c.body)
        .join(told, told.c.outcome == outcomes.c.id)
        .where(*concluded(window), outcomes.c.kind == "acted", told.c.right.is_(False))
        .order_by(outcomes.c.confidence.desc().nulls_last(), outcomes.c.id)
        .limit(most)
    )
    rows: list[Any] = list(c.execute(found).all())
    return [Wrong._make([*row[:-1], _because(row.body)]) for row in rows]


def _because(body: str) -> str:
    leaning = sorted(json.loads(body)["evidence"], key=lambda one: -float(one["weight"]))
    return ", ".join(f"{one['source']} ({one['weight']:.2f})" for one in leaning[:3])


def disagreements(c: Connection, window: Window) -> list[tuple[int, str, bool, bool, str]]:
    """Of each outcome with several auditors: id, and for every two of them whether each found it right, and who.

    The first is a person; `who` is `person` or `judge`, the second's kind.
    """
    # Few have several auditors, and a join of all verdicts with themselves would take minutes.
    some = select(verdicts.c.outcome).group_by(verdicts.c.outcome)
    several = some.having(func.min(verdicts.c.auditor) != func.max(verdicts.c.auditor))
    said = newest_words(several, window.as_of).alias("said")
    other = newest_words(several, window.as_of).alias("other")
    two = (said.c.outcome == other.c.outcome) & (said.c.source == "person")
    order = ((other.c.source == "person") & (said.c.auditor < other.c.auditor)) | (other.c.source == "judge")
    found = (
        select(outcomes.c.id, other.c.source, said.c.right, other.c.right, said.c.auditor)
        .select_from(said.join(other, two & order).join(outcomes, outcomes.c.id == said.c.outcome))
        .where(*concluded(window))
        .order_by(outcomes.c.id, said.c.auditor, other.c.auditor)
    )
    return [(row[0], row[1], row[2], row[3], row[4]) for row in c.execute(found).all()]


def ask_about(c: Connection, agent: str, period: str, drawn: dict[int, tuple[str, float]], as_of: float) -> int:
    """Enter outcomes that somebody shall look at, with their stratum and chance; those entered before stay as they are.

    They are asked `as_of` the moment when their review began, so that it counts them itself, and again if it is killed.
    Returns how many are new; none where another review drew from this week meanwhile: chances are those of one plan.
    """
    # Under its agent's lock: of two reviews at once the later one looks when the draw of the first is there.
    c.execute(select(agents.c.name).where(agents.c.name == agent).with_for_update())
    if was_drawn(c, agent, period):
        return 0
    new = 0
    for outcome, (stratum, chance) in sorted(drawn.items()):
        row = dict(outcome=outcome, agent=agent, period=period, stratum=stratum, chance=chance, asked=as_of)
        new += c.execute(insert_or_nothing(c, audits).values(row)).rowcount
    return new


def was_drawn(c: Connection, agent: str, period: str) -> bool:
    """Whether the plan of a week was entered."""
    return bool(c.execute(select(exists().where(audits.c.agent == agent, audits.c.period == period))).scalar())


def spent(c: Connection, window: Window) -> dict[tuple[str, str, str | None], int]:
    """Nanodollars that an agent's calls cost, by skill, version and what came of the case.

    That is None where the same skill and version concluded nothing about it in the window: a case still in hand, a
    copy that only rehearsed.
    """
    calls = model_calls.c
    began = (calls.began >= window.since, calls.began < window.until)
    booked = (calls.agent == window.agent, calls.state == "answered", calls.ended < window.as_of)
    # Looked up call by call: joined to `concluded`, SQLite would go through all of an agent's outcomes for each.
    of_case = outcomes.alias("of_case")
    live = (of_case.c.case == calls.case, ~of_case.c.rehearsed, of_case.c.at < window.as_of)
    last = select(func.max(of_case.c.id)).where(*live).correlate(model_calls).scalar_subquery()
    within = (outcomes.c.at >= window.since, outcomes.c.at < window.until)
    same = (outcomes.c.skill == calls.skill, outcomes.c.version == calls.version)
    joined = model_calls.join(outcomes, and_(outcomes.c.id == last, *same, *within), isouter=True)
    by = (calls.skill, calls.version, outcomes.c.answer)
    found = select(*by, func.sum(calls.spent)).select_from(joined).where(*began, *booked).group_by(*by)
    return {(row[0], row[1], row[2]): int(row[3] or 0) for row in c.execute(found).all()}


def begin_review(c: Connection, agent: str, since: float, until: float) -> tuple[int, Window]:
    """A review of a window: the one that a killed process left unfinished, or a new one as of now."""
    mine = (reviews.c.agent == agent, reviews.c.since == since, reviews.c.until == until, reviews.c.figures == "")
    row = c.execute(select(reviews).where(*mine).order_by(reviews.c.id).limit(1)).one_or_none()
    if row is not None:
        return row.id, Window(agent, since, until, row.as_of)
    now = time.time()
    values = dict(agent=agent, since=since, until=until, as_of=now, figures="", at=now)
    number = int(c.execute(insert(reviews).values(values).returning(reviews.c.id)).scalar_one())
    return number, Window(agent, since, until, now)


def end_review(c: Connection, review: int, figures: dict[str, object]) -> None:
    """Keep the figures of a review, once."""
    mine = (reviews.c.id == review, reviews.c.figures == "")
    c.execute(update(reviews).where(*mine).values(figures=json.dumps(figures, sort_keys=True), at=time.time()))
