"""What models cost: sums of the calls, by what they were for."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, Integer, case, cast, exists, func, select

from tasks.ledger.tables import model_calls, steps

DAY = 86_400


class Spent(NamedTuple):
    """Calls of one agent, skill, version, step, model and UTC day; money in nanodollars."""

    agent: str
    skill: str
    version: str
    step: str
    model: str
    day: int
    """Days since 1970."""
    calls: int
    replays: int
    input_tokens: int
    output_tokens: int
    cache_read: int
    spent: int
    saved_by_replay: int
    """What the replays of finished steps would have cost again, with their last answers alone."""
    saved_by_cache: int
    wasted: int
    """Of `spent`: answers that no step kept: unusable ones, also of a step that then got another, and those that a kill
    came too early for."""
    unknown: int
    """The most that calls may have cost of which nobody knows whether they were charged; not in `spent`."""


def spent_between(c: Connection, since: float, until: float) -> list[Spent]:
    """Sums over the calls that began in [since, until), seconds since 1970; the newest day first."""
    calls = model_calls.c
    answered, lost = calls.state == "answered", calls.state == "lost"
    # A step keeps the last answer of the attempt that stored it: what was asked before it in vain is wasted.
    later = model_calls.alias("later").c
    same = (later.case == calls.case, later.key == calls.key, later.fence == calls.fence, later.state == "answered")
    kept_by = (steps.c.case == calls.case, steps.c.key == calls.key, steps.c.fence == calls.fence)
    kept = answered & exists().where(*kept_by) & ~exists().where(*same, later.id > calls.id)
    day = cast(func.floor(calls.began / DAY), Integer)
    by = (calls.agent, calls.skill, calls.version, calls.step, calls.model, day.label("day"))
    total = [
        func.sum(case((answered, 1), else_=0)),
        func.sum(case((kept, calls.replays), else_=0)),
        func.sum(calls.input_tokens + calls.cache_write),
        func.sum(calls.output_tokens),
        func.sum(calls.cache_read),
        func.sum(calls.spent),
        func.sum(case((kept, calls.replays * calls.spent), else_=0)),
        func.sum(calls.saved_by_cache),
        func.sum(case((answered & ~kept, calls.spent), else_=0)),
        func.sum(case((lost, calls.reserved), else_=0)),
    ]
    within = (calls.began >= since, calls.began < until)
    found = select(*by, *total).where(*within).group_by(*by).order_by(day.desc(), calls.agent, calls.skill, calls.step)
    return [Spent(*row[:6], *(int(one or 0) for one in row[6:])) for row in c.execute(found).all()]
