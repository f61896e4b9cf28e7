"""The story of one case, in order: what was begun, which steps ran or were replayed, what went out, how it ended."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, select

from tasks.ledger.approvals import SHOWN, words_of
from tasks.ledger.cases import LONGEST_BACKOFF
from tasks.ledger.reviewed import WEEK, Window, Wrong, wrong_ones
from tasks.ledger.tables import attempts, audits, cases, effects, holders, journal, outcomes, signals, steps
from tasks.ledger.verdicts import GREATEST, Verdict, verdicts_of
from tasks.records import Outcome, Policy


class Line(NamedTuple):
    """One thing that happened; `at` is seconds since 1970 in UTC."""

    at: float
    what: str
    """Holds no customer's words and no address, so that Prefect may keep it."""
    words: str = ""
    """What follows where people may read everything: at a terminal."""
    flow_run: str = ""
    """The id of the run that it happened in; empty if that is not known or said already."""


class Told(NamedTuple):
    """A wrong decision with the story of its case."""

    wrong: Wrong
    story: list[Line]


def worst_of_week(c: Connection, window: Window, most: int) -> list[Told]:
    """The worst decisions of the seven days with which a window ends, the surest first."""
    week = window._replace(since=max(window.since, window.until - WEEK))
    return [Told(one, story(c, one.case)) for one in wrong_ones(c, week, most)]


def story(c: Connection, case: int) -> list[Line]:
    """Everything the ledger knows of a case, oldest first; empty if there is none of that id."""
    row = c.execute(select(cases).where(cases.c.id == case)).one_or_none() if 0 < case <= GREATEST else None
    if row is None:
        return []
    place = f" from {row.source} as {row.key}, thread {row.thread}"
    told = [Line(row.recorded, f"recorded by agent {row.agent}", place)]
    ran = c.execute(select(steps).where(steps.c.case == case).order_by(steps.c.at)).all()
    for one in c.execute(select(attempts).where(attempts.c.case == case)).all():
        told += _attempt(c, one)
    for step in ran:
        name = step.step.rpartition(".")[2]
        told.append(Line(step.at, f"  step {name} ran in {step.seconds:.2f} s and was stored (attempt {step.fence})"))
    for effect in c.execute(select(effects).where(effects.c.case == case)).all():
        why = f" (through {effect.channel})" + (f": {effect.why}" if effect.why else "")
        told.append(Line(effect.at, f"  effect {effect.kind} is {effect.state}", why))
    told += [_said(one) for one in words_of(c, case)]
    came = c.execute(select(outcomes).where(outcomes.c.case == case).order_by(outcomes.c.id)).all()
    for one in came:
        # What is pinned belongs to the newest attempt: an earlier outcome may have had another threshold.
        pinned = row.policy if one is came[-1] and one.fence == row.fence else ""
        told += _conclusion(one, f", acts from {Policy.model_validate_json(pinned).threshold:.2f} on" if pinned else "")
    drawn = select(audits).join(outcomes, outcomes.c.id == audits.c.outcome).where(outcomes.c.case == case)
    for one in c.execute(drawn).all():
        told.append(Line(one.asked, f"drawn for audit, week of {one.period}, chance {one.chance:.3g}"))
    told += [_verdict(one) for one in verdicts_of(c, case)]
    # What became a verdict is told as one.
    heard = select(signals).where(signals.c.source == row.source, signals.c.key == row.key, signals.c.outcome.is_(None))
    for one in c.execute(heard).all():
        told.append(Line(one.at, f"signal of the source: {one.what}", f": {one.why}" if one.why else ""))
    for note in c.execute(select(journal).where(journal.c.case == case)).all():
        did, colon, why = note.what.partition(":")
        told.append(Line(note.at, f"{note.who}: {did}", colon + why))
    return [*sorted(told, key=lambda line: line.at), _now(row)]


def _now(row: Row[Any]) -> Line:
    wait = row.not_before - time.time()
    later = f" (tried again in {wait:.0f} s)" if row.state == "open" and 0 < wait <= LONGEST_BACKOFF else ""
    return Line(time.time(), f"now {row.state}{later}", f": {row.reason}" if row.reason else "")


def _attempt(c: Connection, one: Row[Any]) -> list[Line]:
    pid = c.execute(select(holders.c.pid).where(holders.c.id == one.holder)).scalar()
    begun = f"attempt {one.fence} begun by {one.skill} {one.version} in process {pid or '?'}"
    told = [Line(one.begun, begun, f", flow run {one.flow_run}" if one.flow_run else "", one.flow_run)]
    if one.ended:
        kept = f"; {one.replayed} finished step(s) replayed, not run" if one.replayed else ""
        told.append(Line(one.ended, f"attempt {one.fence} {one.how}{kept}", f": {one.why}" if one.why else ""))
    return told


def _said(one: Row[Any]) -> Line:
    said = {"asked": f"a person is asked, by {one.by}", "told": "nobody spoke in time, people are told once more"}
    what = said.get(one.what) or f"{one.what} by {one.who}"
    return Line(one.at, f"  effect {one.kind} ({one.digest[:SHOWN]}): {what}", f": {one.why}" if one.why else "")


def _verdict(one: Verdict) -> Line:
    label = f", it should have been {one.label}" if one.label else ""
    said = f"verdict of {one.auditor} ({one.source}): {'right' if one.right else 'wrong'}{label}"
    return Line(one.at, said, f": {one.why}" if one.why else "")


def _conclusion(row: Row[Any], pinned: str) -> list[Line]:
    outcome = Outcome.model_validate_json(row.body)
    sure = f" ({outcome.confidence:.2f}{pinned})" if outcome.confidence is not None else ""
    came = f"{'rehearsed' if row.rehearsed else 'settled'}: {outcome.kind} {outcome.answer}{sure}"
    leaning = [
        Line(row.at, f"    leant on {one.source} ({one.weight:.2f})", f": {one.text}") for one in outcome.evidence
    ]
    return [Line(row.at, came, f" {outcome.note}" if outcome.note else ""), *leaning]
