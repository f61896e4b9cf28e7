"""Signals that a source gives later: a customer who was answered writes again about the same matter."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, String, and_, cast, exists, func, literal, null, or_, select, union_all

from tasks.ledger.inserts import insert_or_nothing
from tasks.ledger.tables import cases, outcomes, verdicts
from tasks.ledger.verdicts import chunks

WROTE_AGAIN = "wrote again"
_KEY = f"signal/{WROTE_AGAIN}/"
WITHIN_SECONDS = 14 * 86_400.0
WHY = "case {} of the same conversation came after it, about the same matter or an unclear one"
UNKNOWN = "unknown"  # the answer of a skill that could not tell what a case is about
FIRST_WORDS = 8  # a thank-you begins with its thanks; a complaint may end with them
THANKS = re.compile(
    r"\b(thank|thanks|thankyou|thx|cheers|danke|dank|merci|gracias|grazie|obrigad[oa]|bedankt|tack)\b", re.I
)
WORD = re.compile(r"\w+")
QUOTED = re.compile(r"^(>.*|-+ ?original message ?-+.*|on .{1,200} wrote:|am .{1,200} schrieb .{0,200}:)$", re.I | re.M)


class Signal(NamedTuple):
    """One case that says that the answer before it was not right."""

    outcome: int
    by: int
    """The later case."""
    at: float
    """When that was settled, which is when anybody could know."""


def signals(c: Connection, agent: str, since: float, until: float) -> list[Signal]:
    """The signals about answers that left in [since, until), seconds since 1970, that no verdict holds yet.

    A later case speaks against an outcome if all of this holds:
    * the outcome acted for real and is the last thing that came of the conversation (source and thread) before the
      later case was recorded: what was handed over meanwhile is a person's answer, and what was abstained from none;
    * the later case is of the same sender, was written after the outcome, and recorded within 14 days of it;
    * the first outcome of the later case has the same answer or `unknown`, and is no abstention: another matter is
      a new question, and what a redo makes of it later changes nothing here;
    * it was not written by a program, and its own words are no thank-you: it says something, and neither begins with
      thanks without asking anything.

    In doubt it is no signal. What follows depends on the ledger alone, whenever and however often it is computed.
    """
    on = and_(outcomes.c.agent == agent, outcomes.c.at >= since)
    nth = func.row_number().over(partition_by=outcomes.c.case, order_by=outcomes.c.id)
    place = (cases.c.source, cases.c.thread)
    told = (
        select(outcomes.c.id, outcomes.c.kind, outcomes.c.at, outcomes.c.rehearsed, nth.label("nth"))
        .add_columns(*place, cases.c.recorded)
        .join(cases, cases.c.id == outcomes.c.case)
        .where(on)
        .cte("told")
    )
    # One walk through each conversation in time, so that one of 10,000 mails is not compared with itself.
    answers = select(told.c.source, told.c.thread, told.c.at.label("t"), told.c.id.label("heard"), null().label("by"))
    comes = select(told.c.source, told.c.thread, told.c.recorded, null(), told.c.id)
    events = union_all(
        answers.where(told.c.kind != "abstained", ~told.c.rehearsed),
        comes.where(told.c.nth == 1, told.c.recorded > since),
    ).subquery("events")
    last = func.max(events.c.heard).over(partition_by=(events.c.source, events.c.thread), order_by=events.c.t)
    pairs = select(events.c.by, last.label("heard")).subquery("pairs")

    first, by = outcomes.alias("first"), outcomes.alias("by")
    before, later = cases.alias("before"), cases.alias("later")
    known = and_(verdicts.c.outcome == first.c.id, verdicts.c.key == literal(_KEY).concat(cast(later.c.id, String)))
    found = (
        select(first.c.id.label("outcome"), later.c.id.label("by"), by.c.at, first.c.at.label("answered"), later.c.body)
        .select_from(pairs)
        .join(first, first.c.id == pairs.c.heard)
        .join(by, by.c.id == pairs.c.by)
        .join(before, before.c.id == first.c.case)
        .join(later, later.c.id == by.c.case)
        .where(first.c.kind == "acted", first.c.at < until, later.c.recorded <= first.c.at + WITHIN_SECONDS)
        .where(by.c.kind != "abstained", or_(by.c.answer == first.c.answer, by.c.answer == UNKNOWN))
        .where(before.c.sender == later.c.sender, before.c.sender != "", before.c.id != later.c.id)
        .where(~exists().where(known))
        .order_by(first.c.id, later.c.id)
    )
    rows = c.execute(found.execution_options(yield_per=500))
    return [Signal(one.outcome, one.by, one.at) for one in rows if _complains(one.body, one.answered)]


def _complains(body: str, answered: float) -> bool:
    arrival = json.loads(body)
    if arrival["attributes"].get("automatic") or datetime.fromisoformat(arrival["arrived"]).timestamp() <= answered:
        return False
    own = QUOTED.sub("", arrival["text"])
    words = WORD.findall(own)
    thanks = THANKS.search(" ".join(words[:FIRST_WORDS])) and "?" not in own
    return bool(words) and not thanks


def keep(c: Connection, found: Sequence[Signal]) -> int:
    """Enter signals as verdicts; those that are there already stay as they are. Returns how many are new."""
    new = 0
    for some in chunks(found):
        rows = [
            dict(outcome=one.outcome, source="signal", auditor=WROTE_AGAIN, right=False, at=one.at)
            | dict(key=f"{_KEY}{one.by}", why=WHY.format(one.by))
            for one in some
        ]
        new += c.execute(insert_or_nothing(c, verdicts), rows).rowcount
    return new


def collect_signals(c: Connection, agent: str, since: float, until: float) -> int:
    """Find the `signals` of a window and `keep` them; any number of processes may, each is kept once.

    Nobody else writes meanwhile. For a large window (1,000,000 outcomes take half a minute) read `signals` on a
    snapshot, and `keep` them in writes of their own.
    """
    return keep(c, signals(c, agent, since, until))
