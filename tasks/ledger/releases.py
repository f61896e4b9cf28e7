"""Which version of a skill works a case: stages that people and the review give to versions, without a deploy."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, Integer, cast, func, insert, select, update

from tasks.errors import BadInput
from tasks.ledger.cases import ready
from tasks.ledger.inserts import insert_or_nothing
from tasks.ledger.journal import note
from tasks.ledger.tables import SHADOW, cases, outcomes, releases, unsettled
from tasks.records import CaseId, Policy

MOST = 20_000
Stage = Literal["shadow", "canary", "live", "retired"]


class Release(NamedTuple):
    """What counts of a version of an agent's skill."""

    id: int
    agent: str
    skill: str
    version: str
    stage: Stage
    share: float
    """Of the cases: those that a canary works, or a shadow sees."""
    who: str
    why: str
    at: float


class Ready(NamedTuple):
    """A case that can be begun, by this version of this skill; empty: as the code has it."""

    case: CaseId
    skill: str
    version: str


class Rehearsed(NamedTuple):
    """What a shadow concluded about a case, and the kind of what really came of it."""

    kind: str
    answer: str
    live: str


def releases_of(c: Connection, agent: str, as_of: float = math.inf) -> list[Release]:
    """The newest word on each version of an agent's skills, in the order in which they were said."""
    said = (releases.c.agent == agent, releases.c.at < as_of)
    newest = select(func.max(releases.c.id)).where(*said).group_by(releases.c.skill, releases.c.version)
    names = [releases.c[name] for name in Release._fields]
    return [Release._make(row) for row in c.execute(select(*names).where(releases.c.id.in_(newest)).order_by(names[0]))]


def set_stage(
    c: Connection,
    agent: str,
    skill: str,
    version: str,
    stage: Stage,
    share: float,
    who: str,
    why: str,
    review: int | None = None,
) -> bool:
    """Give a version a stage from the next case on that is begun; False if it has it, or this review said so before.

    A version that goes live takes the place of the one that is. Raises BadInput if canaries had more than all cases.
    """
    of_skill = [one for one in releases_of(c, agent) if one.skill == skill]
    before = next((one for one in of_skill if one.version == version), None)
    if before is not None and (before.stage, before.share) == (stage, share):
        return False
    if review is not None:
        said = (releases.c.agent == agent, releases.c.skill == skill, releases.c.version == version)
        if c.execute(select(releases.c.id).where(*said, releases.c.review == review)).first() is not None:
            return False
    others = sum(one.share for one in of_skill if one.stage == "canary" and one.version != version)
    if stage == "canary" and share + others > 1:
        raise BadInput(
            f"Other canaries of {skill} have {others:.0%} of its cases already; {share:.0%} more is too much."
        )
    seen = c.execute(select(func.max(outcomes.c.id)).where(outcomes.c.agent == agent)).scalar() or 0
    row = dict(agent=agent, skill=skill, who=who, why=why, review=review, seen=seen, at=time.time())
    if stage == "live":
        for one in of_skill:
            if one.stage == "live" and one.version != version:
                gone = dict(version=one.version, stage="retired", share=0.0)
                c.execute(insert(releases).values(**row, **gone))
    c.execute(insert(releases).values(**row, version=version, stage=stage, share=share))
    part = f" for {share:.0%} of the cases" if stage in ("shadow", "canary") else ""
    note(c, who, f"{skill} {version} is {stage}{part}{': ' if why else ''}{why}"[:2000], agent=agent)
    return True


def place(skill: str, case: CaseId) -> float:
    """Where a case lies between 0 and 1: the same for each version, whenever and by whomever it is asked."""
    return int.from_bytes(hashlib.sha256(f"{skill}/{case}".encode()).digest()[:8]) / 2**64


def version_for(skill: str, case: CaseId, found: Sequence[Release]) -> str:
    """The version that works a case which was never begun; empty: the one that the code has."""
    upto, live = 0.0, ""
    for one in found:
        if one.skill == skill and one.stage == "live":
            live = one.version
        elif one.skill == skill and one.stage == "canary":
            upto += one.share
            if place(skill, case) < upto:
                return one.version
    return live


def to_begin(c: Connection, agent: str, limit: int) -> list[Ready]:
    """What is `ready`, each with the version that it began with, or else the one that it shall begin with."""
    if not (found := ready(c, agent, limit)):
        return []
    said = releases_of(c, agent)
    columns = (cases.c.id, cases.c.source, cases.c.policy)
    rows = {row.id: row for row in c.execute(select(*columns).where(cases.c.id.in_([case for case, _ in found])))}
    return [Ready(case, skill, _version(skill, rows[case], said)) for case, skill in found]


def _version(skill: str, row: Any, said: Sequence[Release]) -> str:
    if row.source.startswith(SHADOW):
        return str(row.source).removeprefix(f"{SHADOW}{skill}/")
    pinned = Policy.model_validate_json(row.policy).versions if row.policy else {}
    return pinned.get(skill, "") or version_for(skill, row.id, said)


def has_shadows(c: Connection, agent: str) -> bool:
    """Whether a version of an agent's skills is to see what others work."""
    return any(one.stage == "shadow" for one in releases_of(c, agent))


def show_to_shadows(c: Connection, agent: str, limit: int) -> int:
    """Copy cases that were settled since to the versions that are shadows. Returns how many were looked at; 0: all.

    A copy is a case of its own that only rehearses, so it is leased, retried and paid for like any other and nothing
    of it leaves; it is made after the case itself is settled, so that no customer waits for it.
    """
    looked = 0
    for one in releases_of(c, agent):
        if one.stage != "shadow":
            continue
        row = c.execute(select(releases.c.seen).where(releases.c.id == one.id).with_for_update()).scalar_one()
        mine = (outcomes.c.agent == agent, outcomes.c.skill == one.skill, ~outcomes.c.rehearsed, outcomes.c.id > row)
        found = select(outcomes.c.id, cases).join(cases, cases.c.id == outcomes.c.case).where(*mine)
        rows = c.execute(found.order_by(outcomes.c.id).limit(limit)).all()
        source = f"{SHADOW}{one.skill}/{one.version}"
        for settled in rows:
            if place(one.skill, settled[1]) < one.share:
                copy_case(c, settled, source, str(settled[1]), one.skill)
        if rows:
            c.execute(update(releases).where(releases.c.id == one.id).values(seen=rows[-1][0]))
        looked += len(rows)
    return looked


def retire_shadow(c: Connection, agent: str, source: str) -> None:
    """End what rehearses copies of this source, because one of them killed its process again and again.

    Its other copies are quarantined; where they are those of a version in shadow, that is retired.
    """
    skill, _, version = source.removeprefix(SHADOW).partition("/")
    why = "a copy that it rehearsed killed its process three times; see `why` of its quarantined cases"
    waits = (unsettled(), cases.c.agent == agent, cases.c.source == source, cases.c.state.in_(("open", "parked")))
    reason = f"another copy that {skill} {version} rehearsed killed its process three times; `release` tries this one"
    rest = c.execute(update(cases).where(*waits).values(state="quarantined", reason=reason, suspect=False)).rowcount
    mine = (one for one in releases_of(c, agent) if (one.skill, one.version, one.stage) == (skill, version, "shadow"))
    if next(mine, None) is not None:
        set_stage(c, agent, skill, version, "retired", 0.0, "recovery", why)
    note(c, "recovery", f"quarantined {rest} other copies that {skill} {version} was to rehearse: {why}", agent=agent)


def copy_case(
    c: Connection, worked: Any, source: str, key: str, skill: str, attributes: Mapping[str, object] | None = None
) -> int:
    """Enter a copy of a case (`agent`, `sender` and `body` of its row) that only rehearses; 0 if it is there."""
    arrival = {**json.loads(worked.body), "key": key, "thread": key}
    arrival["attributes"] = {**arrival.get("attributes", {}), **(attributes or {})}
    # A conversation of its own: the order in which it is worked holds up nobody and is held up by nobody.
    row = dict(agent=worked.agent, source=source, key=key, thread=key, sender=worked.sender, skill=skill)
    row |= dict(body=json.dumps(arrival), recorded=time.time())
    return c.execute(insert_or_nothing(c, cases).values(row)).rowcount


def rehearsed_by(c: Connection, shadow: Release) -> dict[CaseId, Rehearsed]:
    """What a shadow concluded about the newest `MOST` of the cases that it saw, by the case that was really worked."""
    copy, own, real = cases.alias("copy"), outcomes.alias("own"), outcomes.alias("real")
    last = select(func.max(outcomes.c.id)).where(outcomes.c.case == copy.c.id).correlate(copy).scalar_subquery()
    worked = cast(copy.c.key, Integer)
    found = (
        select(worked, own.c.kind, own.c.answer, real.c.kind)
        .select_from(copy)
        .join(own, own.c.id == last)
        .join(real, (real.c.case == worked) & ~real.c.rehearsed)
        .where(copy.c.source == f"{SHADOW}{shadow.skill}/{shadow.version}", copy.c.agent == shadow.agent)
        .order_by(copy.c.id.desc(), real.c.id)
        .limit(MOST)
    )
    return {row[0]: Rehearsed(*row[1:]) for row in c.execute(found)}
