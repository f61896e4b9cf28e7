"""The story of one case, in order: what was begun, which steps ran or were replayed, what went out, how it ended."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, select

from tasks.ledger.cases import LONGEST_BACKOFF
from tasks.ledger.tables import attempts, audits, cases, effects, holders, journal, outcomes, steps
from tasks.ledger.verdicts import Verdict, verdicts_of
from tasks.records import Outcome


class Line(NamedTuple):
    """One thing that happened; `at` is seconds since 1970 in UTC."""

    at: float
    what: str


def story(c: Connection, case: int) -> list[Line]:
    """Everything the ledger knows of a case, oldest first; empty if there is none of that id."""
    row = c.execute(select(cases).where(cases.c.id == case)).one_or_none()
    if row is None:
        return []
    told = [Line(row.recorded, f"recorded by agent {row.agent} from {row.source} as {row.key}, thread {row.thread}")]
    ran = c.execute(select(steps).where(steps.c.case == case).order_by(steps.c.at)).all()
    for one in c.execute(select(attempts).where(attempts.c.case == case)).all():
        told += _attempt(c, one)
    for step in ran:
        name = step.step.rpartition(".")[2]
        told.append(Line(step.at, f"  step {name} ran in {step.seconds:.2f} s and was stored (attempt {step.fence})"))
    for effect in c.execute(select(effects).where(effects.c.case == case)).all():
        why = f": {effect.why}" if effect.why else ""
        told.append(Line(effect.at, f"  effect {effect.kind} by {effect.channel} is {effect.state}{why}"))
    for one in c.execute(select(outcomes).where(outcomes.c.case == case)).all():
        told.append(Line(one.at, _conclusion(Outcome.model_validate_json(one.body), one.rehearsed)))
    drawn = select(audits).join(outcomes, outcomes.c.id == audits.c.outcome).where(outcomes.c.case == case)
    for one in c.execute(drawn).all():
        told.append(Line(one.asked, f"drawn for audit, week of {one.period}, chance {one.chance:.3g}"))
    told += [Line(one.at, _verdict(one)) for one in verdicts_of(c, case)]
    for note in c.execute(select(journal).where(journal.c.case == case)).all():
        told.append(Line(note.at, f"{note.who}: {note.what}"))
    state = f"now {row.state}" + (f": {row.reason}" if row.reason else "")
    if row.state == "open" and 0 < (wait := row.not_before - time.time()) <= LONGEST_BACKOFF:
        state += f" (tried again in {wait:.0f} s)"
    return [*sorted(told, key=lambda line: line.at), Line(time.time(), state)]


def _attempt(c: Connection, one: Row[Any]) -> list[Line]:
    pid = c.execute(select(holders.c.pid).where(holders.c.id == one.holder)).scalar()
    run = f", flow run {one.flow_run}" if one.flow_run else ""
    begun = f"attempt {one.fence} begun by {one.skill} {one.version} in process {pid or '?'}{run}"
    told = [Line(one.begun, begun)]
    if one.ended:
        kept = f"; {one.replayed} finished step(s) replayed, not run" if one.replayed else ""
        why = f": {one.why}" if one.why else ""
        told.append(Line(one.ended, f"attempt {one.fence} {one.how}{why}{kept}"))
    return told


def _verdict(one: Verdict) -> str:
    label = f", it should have been {one.label}" if one.label else ""
    why = f": {one.why}" if one.why else ""
    return f"verdict of {one.auditor} ({one.source}): {'right' if one.right else 'wrong'}{label}{why}"


def _conclusion(outcome: Outcome, rehearsed: bool) -> str:
    sure = f" ({outcome.confidence:.2f})" if outcome.confidence is not None else ""
    leaning = "".join(f"\n      {one.weight:.2f}  {one.source}: {one.text}" for one in outcome.evidence)
    return f"{'rehearsed' if rehearsed else 'settled'}: {outcome.kind} {outcome.answer}{sure} {outcome.note}{leaning}"
