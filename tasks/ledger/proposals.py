"""What a skill shall learn: proposed by a review, decided by its rule or by a person, taken back as a whole."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, Row, case, select, update

from tasks.errors import BadInput
from tasks.ledger.inserts import insert_or_nothing
from tasks.ledger.journal import note
from tasks.ledger.lessons import learn
from tasks.ledger.reviewed import Window, concluded
from tasks.ledger.standing import truths
from tasks.ledger.tables import agents, cases, lessons, outcomes, proposals
from tasks.records import CaseId, Replay

EXAMPLES = "examples"
State = Literal["proposed", "active", "declined", "reverted", "replaced"]
Examples = Sequence[tuple[CaseId, str]]
"""Cases and what they are about."""


class Told(NamedTuple):
    """A case of which people said what it is about."""

    case: CaseId
    skill: str
    label: str
    right: bool
    """Whether what the skill answered was."""
    conversation: str
    """The same for all mail of one thread."""


class Proposal(NamedTuple):
    """Cases that a skill shall read others by, and what speaks for it."""

    id: int
    agent: str
    skill: str
    examples: list[tuple[CaseId, str]]
    evidence: list[CaseId]
    """Those of them that came out wrong."""
    review: int | None
    replay: Replay | None
    state: State
    who: str
    why: str


def told_by_people(c: Connection, window: Window) -> list[Told]:
    """Whatever people said what it is about, drawn or not, in the order of the cases."""
    told = truths(None, window.as_of)
    label = case((told.c.right, outcomes.c.answer), else_=told.c.label)
    found = (
        select(outcomes.c.case, outcomes.c.skill, label, told.c.right, cases.c.source, cases.c.thread)
        .join(told, told.c.outcome == outcomes.c.id)
        .join(cases, cases.c.id == outcomes.c.case)
        .where(*concluded(window), told.c.source == "person", told.c.right.is_not(None), label != "")
        .order_by(outcomes.c.case)
    )
    rows: list[Any] = list(c.execute(found).all())
    return [Told._make([*row[:4], f"{row.source} {row.thread}"]) for row in rows]


def spoken_for(c: Connection, agent: str, skill: str) -> tuple[set[CaseId], set[tuple[CaseId, str]]]:
    """Cases that were ever proposed as examples, and those that were declined or taken back, with their labels."""
    mine = (proposals.c.agent == agent, proposals.c.skill == skill, proposals.c.kind == EXAMPLES)
    ever: set[CaseId] = set()
    refused: set[tuple[CaseId, str]] = set()
    for state, content in c.execute(select(proposals.c.state, proposals.c.content).where(*mine)).all():
        pairs = _pairs(content)
        ever.update(one for one, _ in pairs)
        if state in ("declined", "reverted"):
            refused.update(pairs)
    return ever, refused


def waiting(c: Connection, agent: str, skill: str) -> Proposal | None:
    """The newest that nobody decided."""
    mine = (proposals.c.agent == agent, proposals.c.skill == skill, proposals.c.kind == EXAMPLES)
    found = select(proposals).where(*mine, proposals.c.state == "proposed").order_by(proposals.c.id.desc()).limit(1)
    row = c.execute(found).one_or_none()
    return None if row is None else _read(row)


def propose(
    c: Connection,
    agent: str,
    skill: str,
    examples: Examples,
    evidence: Sequence[CaseId],
    review: int,
    replay: Replay,
) -> Proposal:
    """Enter a proposal, once for the same cases and labels; one that is open gives way to it."""
    _one_at_a_time(c, agent)
    mine = (proposals.c.agent == agent, proposals.c.skill == skill, proposals.c.kind == EXAMPLES)
    content = json.dumps(sorted(examples))
    row: dict[str, Any] = dict(
        agent=agent, skill=skill, kind=EXAMPLES, content=content, evidence=json.dumps(sorted(evidence))
    )
    row |= dict(digest=_digest(content), review=review, replay=replay.model_dump_json(), state="proposed")
    new = c.execute(insert_or_nothing(c, proposals).values(**row, at=time.time())).rowcount
    found = _read(c.execute(select(proposals).where(*mine, proposals.c.digest == row["digest"])).one())
    if not new and found.state in ("active", "replaced") and found.review != review:
        # People changed their minds and changed them back: it is proposed a second time.
        again = update(proposals).where(proposals.c.id == found.id).values(**row, at=time.time())
        found = _read(c.execute(again.returning(*proposals.c)).one())
    if new:
        older = update(proposals).where(*mine, proposals.c.state == "proposed", proposals.c.id < found.id)
        c.execute(older.values(state="replaced"))
    return found


def decide(c: Connection, number: int, approve: bool, who: str, why: str) -> bool:
    """Let a proposal count for cases that begin from now on, or refuse it; False if that was decided before.

    What was declined or taken back may be approved after all. Raises BadInput if there is no such proposal, if a newer
    one took its place, or if it counts already and would have to be taken back.
    """
    found = proposal(c, number)
    _one_at_a_time(c, found.agent)
    found = proposal(c, number)  # as it stands now that nobody else decides
    if found.state == ("active" if approve else "declined"):
        return False
    if found.state == "replaced":
        raise BadInput(f"Proposal {number} was replaced by a newer one that has its cases; see `proposals`.")
    if not approve and found.state == "active":
        raise BadInput(
            f"Proposal {number} counts already. Take it back: `revert {found.agent} {found.skill} --lessons`."
        )
    count = len(found.examples)
    if approve:
        count = learn(c, found.agent, found.skill, found.examples, number)
    _set(c, number, "active" if approve else "declined", who, why)
    said = f"{found.skill} learnt {count} case(s)" if approve else f"declined {count} case(s) for {found.skill}"
    note(c, who, f"{said}, proposal {number}: {why}"[:2000], agent=found.agent)
    return True


def take_back(c: Connection, agent: str, skill: str, who: str) -> tuple[int, int] | None:
    """Take back what a skill learnt last, as a whole. Its proposal and the number of lessons; None: nothing is left.

    A label that people took back themselves does not come to count again by this.
    """
    _one_at_a_time(c, agent)
    mine = (lessons.c.agent == agent, lessons.c.skill == skill, lessons.c.active)
    last = c.execute(select(lessons.c.proposal).where(*mine).order_by(lessons.c.id.desc()).limit(1)).scalar()
    if last is None:
        return None
    count = c.execute(update(lessons).where(*mine, lessons.c.proposal == last).values(active=False)).rowcount
    _set(c, last, "reverted", who, "")
    note(c, who, f"took {count} lesson(s) of {skill} back, of proposal {last}", agent=agent)
    return int(last), count


def proposal(c: Connection, number: int) -> Proposal:
    """One of them; BadInput if there is none of this number."""
    row = c.execute(select(proposals).where(proposals.c.id == number)).one_or_none()
    if row is None:
        raise BadInput(f"There is no proposal {number}; `proposals` lists them.")
    return _read(row)


def newest_proposals(c: Connection, agent: str, most: int) -> list[Proposal]:
    """An agent's proposals (all agents' for ''), the newest first, without those that a newer one replaced."""
    mine = (proposals.c.state != "replaced", *([proposals.c.agent == agent] if agent else []))
    found = select(proposals).where(*mine).order_by(proposals.c.id.desc()).limit(most)
    return [_read(row) for row in c.execute(found).all()]


def _one_at_a_time(c: Connection, agent: str) -> None:
    """On Postgres two would else learn the same, each not seeing the other's; SQLite has one writer."""
    c.execute(select(agents.c.name).where(agents.c.name == agent).with_for_update())


def _set(c: Connection, number: int, state: State, who: str, why: str) -> None:
    values = dict(state=state, who=who[:80], why=why, decided=time.time())
    c.execute(update(proposals).where(proposals.c.id == number).values(values))


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _pairs(content: str) -> list[tuple[CaseId, str]]:
    return [(int(one), str(label)) for one, label in json.loads(content)]


def _read(row: Row[Any]) -> Proposal:
    replay = Replay.model_validate_json(row.replay) if row.replay else None
    named = {name: row._mapping[name] for name in ("id", "agent", "skill", "review", "state", "who", "why")}
    return Proposal(examples=_pairs(row.content), evidence=json.loads(row.evidence), replay=replay, **named)
