"""The judge's cases: copies of what was drawn, with what came of it, and what a model says of that."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, Integer, cast, select

from tasks.ledger.releases import copy_case
from tasks.ledger.reviewed import TOLD, Window, concluded
from tasks.ledger.tables import SHADOW, audits, cases, effects, model_calls, outcomes
from tasks.ledger.verdicts import say
from tasks.records import Effect, Record

SKILL = "judge"
SOURCE = f"{SHADOW}{SKILL}/1"
ANSWERS = 200


class Judged(Record):
    """What an agent concluded about a case, as its judge is told."""

    answer: str
    acted: bool
    sent: tuple[str, ...]
    """What left for the customer."""
    answers: tuple[str, ...]
    """All that the skill has ever concluded in the window, `ANSWERS` at the most."""


def ask_the_judge(c: Connection, window: Window) -> int:
    """Make a case of each drawn outcome that the judge was not asked about. Returns how many are new.

    The agent's next tick works them like any other, within its budgets; a copy only rehearses, so nothing leaves.
    """
    asked = select(cast(cases.c.key, Integer)).where(cases.c.source == SOURCE, cases.c.agent == window.agent)
    drawn = (
        select(outcomes)
        .join(audits, audits.c.outcome == outcomes.c.id)
        .where(*concluded(window), outcomes.c.id.not_in(asked), ~audits.c.stratum.startswith(TOLD))
        .order_by(outcomes.c.id)
    )
    rows = c.execute(drawn).all()
    known = {skill: _answers(c, window, skill) for skill in {row.skill for row in rows}}
    return sum(_enter(c, row, known[row.skill]) for row in rows)


def _answers(c: Connection, window: Window, skill: str) -> tuple[str, ...]:
    found = select(outcomes.c.answer).where(*concluded(window), outcomes.c.skill == skill, outcomes.c.answer != "")
    return tuple(c.execute(found.distinct().order_by(outcomes.c.answer).limit(ANSWERS)).scalars())


def _enter(c: Connection, row: Any, answers: tuple[str, ...]) -> int:
    sent = select(effects.c.body).where(
        effects.c.case == row.case, effects.c.state == "confirmed", effects.c.kind == "reply"
    )
    bodies = tuple(Effect.model_validate_json(one).body for one in c.execute(sent).scalars())
    told = Judged(answer=row.answer, acted=row.kind == "acted", sent=bodies, answers=answers)
    worked = c.execute(select(cases).where(cases.c.id == row.case)).one()
    return copy_case(c, worked, SOURCE, str(row.id), SKILL, {"judged": told.model_dump(mode="json")})


def hear_the_judge(c: Connection, agent: str) -> int:
    """Enter what the judge said as verdicts of the model that said it. Returns how many are new."""
    model = (
        select(model_calls.c.model)
        .where(model_calls.c.case == cases.c.id, model_calls.c.state == "answered")
        .order_by(model_calls.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    said = (
        select(cast(cases.c.key, Integer).label("outcome"), outcomes.c.answer, outcomes.c.body, model.label("model"))
        .join(outcomes, outcomes.c.case == cases.c.id)
        .where(cases.c.source == SOURCE, cases.c.agent == agent, cases.c.state == "settled")
        .order_by(outcomes.c.id)
    )
    new = 0
    for one in c.execute(said).all():
        about = c.execute(select(outcomes.c.case).where(outcomes.c.id == one.outcome)).scalar_one()
        label = str(json.loads(one.body)["note"])
        given: dict[str, Any] = dict(source="judge", outcome=one.outcome, label=label)
        new += say(c, about, one.answer == "right", one.model or SKILL, **given)
    return new
