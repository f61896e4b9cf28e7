"""What a skill shall learn or leave to people: proposed by a review, decided by it or by a person, taken back whole."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, case, select, update

from tasks.errors import BadInput
from tasks.ledger.inserts import insert_or_nothing
from tasks.ledger.journal import note
from tasks.ledger.lessons import learn
from tasks.ledger.reviewed import Window, concluded
from tasks.ledger.rules import Exam, Rule, lay_down, take_newest_back
from tasks.ledger.standing import truths
from tasks.ledger.tables import agents, audits, cases, lessons, outcomes, proposals
from tasks.records import CaseId, Replay

EXAMPLES, RULE = "examples", "rule"
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


class Origin(NamedTuple):
    """Where a drawn outcome came from."""

    conversation: str
    """As `Told.conversation`."""
    at: float


class Proposal(NamedTuple):
    """Cases that a skill shall read others by, or a rule on an answer of its, and what speaks for it."""

    id: int
    agent: str
    skill: str
    examples: list[tuple[CaseId, str]]
    evidence: list[CaseId]
    """Those of them that came out wrong; of a rule: what was shown to whoever proposed it."""
    review: int | None
    replay: Replay | None
    state: State
    who: str
    why: str
    rule: Rule | None
    """None for examples."""
    exam: Exam | None
    """Of a rule."""

    def __str__(self) -> str:
        return f"{len(self.examples)} case(s)" if self.rule is None else str(self.rule)


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
    return [Told._make([*row[:4], _conversation(row.source, row.thread)]) for row in rows]


def _conversation(source: str, thread: str) -> str:
    return f"{source} {thread}"


def drawn_conversations(c: Connection, window: Window) -> dict[int, Origin]:
    """Of each drawn outcome of a window, by its id: what decides whether it may be shown, and when it was concluded."""
    found = (
        select(outcomes.c.id, cases.c.source, cases.c.thread, outcomes.c.at)
        .join(audits, audits.c.outcome == outcomes.c.id)
        .join(cases, cases.c.id == outcomes.c.case)
        .where(*concluded(window))
    )
    return {row.id: Origin(_conversation(row.source, row.thread), row.at) for row in c.execute(found).all()}


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


def waiting(c: Connection, agent: str, skill: str, rule: Rule | None = None) -> Proposal | None:
    """The newest that nobody decided: of examples, or this rule."""
    found = select(proposals).where(*_like(agent, skill, rule), proposals.c.state == "proposed")
    row = c.execute(found.order_by(proposals.c.id.desc()).limit(1)).one_or_none()
    return None if row is None else _read(row)


def last_words(c: Connection, agent: str, skill: str, as_of: float = math.inf) -> dict[str, float]:
    """When a rule on each answer was last decided, taken back included: what was seen before is no ground for another.

    Without that a person's no would be asked for again, and a lifted rule come back by what it was laid down for.
    """
    mine = (proposals.c.agent == agent, proposals.c.skill == skill, proposals.c.kind == RULE)
    decided = (proposals.c.state.in_(("active", "declined", "reverted")), proposals.c.decided < as_of)
    found: dict[str, float] = {}
    for content, at in c.execute(select(proposals.c.content, proposals.c.decided).where(*mine, *decided)).all():
        answer = json.loads(content)["answer"]
        found[answer] = max(found.get(answer, 0.0), at)
    return found


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
    content = json.dumps(sorted(examples))
    row = dict(kind=EXAMPLES, content=content, digest=_digest(content), replay=replay.model_dump_json())
    return _enter(c, agent, skill, None, row, evidence, review)


def propose_rule(
    c: Connection, agent: str, skill: str, rule: Rule, evidence: Sequence[CaseId], review: int, exam: Exam
) -> Proposal:
    """Enter a rule as a proposal, once for the same evidence; one on the same answer that is open gives way to it."""
    content = _content(rule)
    digest = _digest(f"{content} {sorted(evidence)}")
    row = dict(kind=RULE, content=content, digest=digest, replay=exam.model_dump_json())
    return _enter(c, agent, skill, rule, row, evidence, review)


def _enter(
    c: Connection,
    agent: str,
    skill: str,
    rule: Rule | None,
    given: dict[str, str],
    evidence: Sequence[CaseId],
    review: int,
) -> Proposal:
    _one_at_a_time(c, agent)
    mine = _like(agent, skill, rule)
    row: dict[str, Any] = dict(agent=agent, skill=skill, evidence=json.dumps(sorted(evidence)), review=review)
    row |= given | {"state": "proposed"}
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
            f"Proposal {number} counts already. Take it back: `revert {found.agent} {found.skill} "
            f"--{'lessons' if found.rule is None else 'rules'}`."
        )
    said = f"declined for {found.skill}: {found}"
    if approve and found.rule is not None:
        lay_down(c, found.agent, found.skill, found.rule, number)
        said = f"a rule for {found.skill}: {found.rule}"
    elif approve:
        count = learn(c, found.agent, found.skill, found.examples, number)
        said = f"{found.skill} learnt {count} case(s)"
    _set(c, number, "active" if approve else "declined", who, why)
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


def take_rule_back(c: Connection, agent: str, skill: str, who: str) -> Proposal | None:
    """Take the newest rule on a skill's answers back; its proposal, None: nothing is left."""
    _one_at_a_time(c, agent)
    last = take_newest_back(c, agent, skill)
    if last is None:
        return None
    _set(c, last, "reverted", who, "")
    found = proposal(c, last)
    note(c, who, f"took a rule of {skill} back: {found}, proposal {last}", agent=agent)
    return found


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


def _like(agent: str, skill: str, rule: Rule | None) -> tuple[ColumnElement[bool], ...]:
    """Proposals that take each other's place."""
    mine = (proposals.c.agent == agent, proposals.c.skill == skill)
    if rule is None:
        return *mine, proposals.c.kind == EXAMPLES
    return *mine, proposals.c.kind == RULE, proposals.c.content == _content(rule)


def _content(rule: Rule) -> str:
    return json.dumps(rule._asdict(), sort_keys=True)


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _pairs(content: str) -> list[tuple[CaseId, str]]:
    return [(int(one), str(label)) for one, label in json.loads(content)]


def _read(row: Row[Any]) -> Proposal:
    named = {name: row._mapping[name] for name in ("id", "agent", "skill", "review", "state", "who", "why")}
    named |= dict(evidence=json.loads(row.evidence), examples=[], replay=None, rule=None, exam=None)
    if row.kind == RULE:
        named |= dict(rule=Rule(**json.loads(row.content)), exam=Exam.model_validate_json(row.replay))
    else:
        named |= dict(examples=_pairs(row.content))
        named |= dict(replay=Replay.model_validate_json(row.replay) if row.replay else None)
    return Proposal(**named)
