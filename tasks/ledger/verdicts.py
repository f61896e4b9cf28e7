"""What auditors say about outcomes: append-only, with who and why, and the same statement only once."""

from __future__ import annotations

import hashlib
import json
import time
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeVar

from sqlalchemy import Connection, func, select

from tasks.errors import BadInput
from tasks.ledger.inserts import insert_or_nothing
from tasks.ledger.tables import cases, outcomes, verdicts
from tasks.records import CaseId

T = TypeVar("T")

Source = Literal["person", "signal", "judge"]
"""Whose word it is: somebody who looked, a later event of the case's source, or a model."""

LONGEST = {"label": 120, "why": 500, "who": 80}
CHUNK = 500  # rows of one question or of one transaction
GREATEST = 2**31 - 1  # what an id of the ledger can be


class Verdict(NamedTuple):
    """One statement about one outcome."""

    outcome: int
    source: Source
    auditor: str
    right: bool
    label: str
    """What the answer should have been; empty if that was not said."""
    why: str
    at: float
    """Seconds since 1970 in UTC."""


class Statement(NamedTuple):
    """What one person says about a case's newest outcome; made by `statement()`."""

    case: CaseId
    right: bool
    label: str
    why: str
    auditor: str


class Handed(NamedTuple):
    """What became of statements that were handed in together."""

    new: int
    known: int
    past: int
    """Of `known`: count no more, for the case has a newer outcome or their auditor said something else since."""


def statement(case: CaseId, right: bool, label: str, why: str, who: str) -> Statement:
    """A statement whose texts any database and terminal takes; BadInput names the field that is none."""
    if not 0 < case <= GREATEST:
        raise BadInput(f"There is no case {str(case)[:20]}. A tick's table in the UI lists the ids.")
    auditor = plain_text("who", who)
    if not auditor:
        raise BadInput("Nobody says it: give a name as who.")
    return Statement(case, bool(right), plain_text("label", label), plain_text("why", why), auditor)


def plain_text(field: str, written: str) -> str:
    """A text on one line that any database and terminal takes; BadInput names the field that is none."""
    # Its length first: nobody wants ten million characters looked at one by one, or in an error.
    if len(written) > LONGEST[field]:
        raise BadInput(f"{field} has more than {LONGEST[field]} characters: shorten it.")
    for one in written:
        if one not in "\n\r\t" and unicodedata.category(one) in ("Cc", "Cs"):
            raise BadInput(f"{field} holds the character U+{ord(one):04X}, which is no text: take it out.")
    return " ".join(written.split())


def say(
    c: Connection,
    case: CaseId,
    right: bool,
    who: str,
    label: str = "",
    why: str = "",
    *,
    source: Source = "person",
    outcome: int | None = None,
) -> bool:
    """Record a verdict about a case's newest outcome, or a given one of it. False if it is the auditor's word already.

    `right` is one bit: acting on the answer was right or, where nothing was done, would have been.
    BadInput if there is no such case, it has no outcome yet, or a text can not be taken.
    """
    said = statement(case, right, label, why, who)
    if outcome is None:
        outcome, lacking = _newest(c, [case]).get(case), "no outcome yet"
    else:
        lacking = f"no outcome {outcome}"
        of_it = select(outcomes.c.id).where(outcomes.c.id == outcome, outcomes.c.case == case)
        outcome = c.execute(of_it).scalar() if 0 < outcome <= GREATEST else None
    if outcome is None:
        raise BadInput(_why_not(c, [case], lacking)[case])
    mine = (verdicts.c.outcome == outcome, verdicts.c.source == source, verdicts.c.auditor == said.auditor)
    words = (verdicts.c.right, verdicts.c.label, verdicts.c.why)
    before = [tuple(row) for row in c.execute(select(*words).where(*mine).order_by(verdicts.c.id))]
    this = (said.right, said.label, said.why)
    if before and before[-1] == this:
        return False
    # Somebody who changed his mind may change it back: that is said anew, and not the first time again.
    row = _row(outcome, source, said, before.count(this))
    return c.execute(insert_or_nothing(c, verdicts).values(row)).rowcount == 1


def hand_in(c: Connection, said: Sequence[Statement]) -> Handed:
    """Record what people said of the newest outcomes of cases, at most CHUNK statements at once.

    What its auditor said before, of any outcome of the case, changes nothing, so that a list may be handed in again
    after a case was worked again, and after somebody changed his mind. BadInput if a case has no outcome.
    """
    ids = sorted({one.case for one in said})
    newest = _newest(c, ids)
    if lacking := [case for case in ids if case not in newest]:
        raise BadInput(" ".join(_why_not(c, lacking, "no outcome yet").values()))
    words = (verdicts.c.right, verdicts.c.label, verdicts.c.why, verdicts.c.auditor)
    joined = verdicts.join(outcomes, outcomes.c.id == verdicts.c.outcome)
    found = select(outcomes.c.case, *words, verdicts.c.outcome).select_from(joined)
    earlier = c.execute(found.where(outcomes.c.case.in_(ids), verdicts.c.source == "person").order_by(verdicts.c.id))
    before: set[Statement] = set()
    counts: dict[tuple[CaseId, str], Statement] = {}
    for row in earlier:
        this = Statement(*row[:5])
        before.add(this)
        if row.outcome == newest[this.case]:
            counts[this.case, this.auditor] = this
    past, rows = 0, list[dict[str, object]]()
    for one in said:
        if one in before:
            past += counts.get((one.case, one.auditor)) != one
        else:
            rows.append(_row(newest[one.case], "person", one, 0))
            before.add(one)
            counts[one.case, one.auditor] = one
    new = c.execute(insert_or_nothing(c, verdicts), rows).rowcount if rows else 0
    return Handed(new, len(said) - new, past)


def _row(outcome: int, source: Source, said: Statement, times: int) -> dict[str, object]:
    digest = hashlib.sha256(json.dumps([said.right, said.label, said.why]).encode()).hexdigest()[:32]
    row: dict[str, object] = said._asdict() | dict(outcome=outcome, source=source, at=time.time())
    del row["case"]
    return row | dict(key=f"{source}/{said.auditor}/{digest}/{times}")


def without_outcome(c: Connection, ids: Sequence[CaseId]) -> dict[CaseId, str]:
    """Why nothing can be said yet of those of the cases that have no outcome, or do not exist."""
    missing: dict[CaseId, str] = {}
    for some in chunks(sorted(set(ids))):
        newest = _newest(c, some)
        missing |= _why_not(c, [case for case in some if case not in newest], "no outcome yet")
    return missing


def _newest(c: Connection, ids: Sequence[CaseId]) -> dict[CaseId, int]:
    found = select(outcomes.c.case, func.max(outcomes.c.id)).where(outcomes.c.case.in_(ids)).group_by(outcomes.c.case)
    return {row[0]: row[1] for row in c.execute(found)}


def _why_not(c: Connection, ids: Sequence[CaseId], lacking: str) -> dict[CaseId, str]:
    states = {row.id: row.state for row in c.execute(select(cases.c.id, cases.c.state).where(cases.c.id.in_(ids)))}
    return {
        case: f"Case {case} has {lacking}: it is {states[case]}; `why {case}` tells where it stands."
        if case in states
        else f"There is no case {case}. A tick's table in the UI lists the ids."
        for case in ids
    }


def verdicts_of(c: Connection, case: CaseId) -> list[Verdict]:
    """All that was said of a case, of each of its outcomes, in the order in which it was said."""
    columns = [verdicts.c[name] for name in Verdict._fields]
    joined = verdicts.join(outcomes, outcomes.c.id == verdicts.c.outcome)
    found = select(*columns).select_from(joined).where(outcomes.c.case == case).order_by(verdicts.c.id)
    return [Verdict(*row) for row in c.execute(found)]


def chunks(whole: Sequence[T]) -> Iterator[Sequence[T]]:
    """A sequence in pieces of CHUNK."""
    return (whole[first : first + CHUNK] for first in range(0, len(whole), CHUNK))
