"""Effects that wait for a person's word: what was asked, down to the last character, and what people said."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import JsonValue, ValidationError
from sqlalchemy import Connection, Row, Select, func, insert, select, update

from tasks.errors import WAITS, BadInput
from tasks.ledger.cases import Work
from tasks.ledger.effects import Intent
from tasks.ledger.tables import approvals, cases, effects, waiting_effects
from tasks.ledger.verdicts import GREATEST, plain_text
from tasks.records import Approval, CaseId, Effect

SHOWN = 12  # characters of a digest that people see, and the fewest that they may name it by
LONGEST = {"subject": 500, "body": 20_000}  # characters of what a person may write instead
MOST = 500  # effects that are listed, or whose time is looked at, at once
NOBODY = "timeout"


class Word(NamedTuple):
    """The newest that was said of an effect."""

    what: Literal["asked", "told", "permitted", "edited", "denied"]
    digest: str
    """Of the channel and the exact effect that was asked about."""
    by: str
    """The skill, version and take that wanted it."""
    until: float
    then: Literal["deny", "escalate"]
    who: str
    why: str
    at: float


class Waiting(NamedTuple):
    """An effect that waits for somebody's word."""

    case: CaseId
    agent: str
    key: str
    channel: str
    effect: Effect
    since: float
    word: Word


def digest_of(channel: str, effect: Effect) -> str:
    """What a permission is bound to: the exact arguments, and where they would go."""
    # Without what is empty: a field that a later version adds makes no other effect of one that waits.
    body = effect.model_dump(mode="json", exclude_defaults=True)
    return hashlib.sha256(json.dumps([channel, body], sort_keys=True).encode()).hexdigest()


def newest_word(c: Connection, key: str) -> Word | None:
    """What counts of all that was said of an effect; None if nobody was ever asked."""
    columns = [approvals.c[name] for name in Word._fields]
    said = select(*columns).where(approvals.c.effect == key).order_by(approvals.c.id.desc()).limit(1)
    row = c.execute(said).one_or_none()
    return Word._make(row) if row else None


def ask(c: Connection, work: Work, by: str, intent: Intent, channel: str, effect: Effect) -> tuple[Intent, Word | None]:
    """Let an effect of a kind that is marked wait for a person, unless one spoke of it.

    The first body stands, as it does for all effects, for as long as the same version wants it: that is what people
    were shown and what leaves. What another version or a redo wants is asked about anew if it is not the very same,
    unless the permitted one was on its way already.
    """
    marked = work.agent.approvals.get(effect.kind)
    if intent.state not in ("intended", "waiting", "denied") or (marked is None and intent.state == "intended"):
        return intent, None
    word = newest_word(c, intent.key)
    # After a denial `redo` makes it intended again: the one way to be asked about the same once more.
    asked_again = word is not None and intent.state == "intended" and word.what == "denied"
    if word is not None and not asked_again:
        tried = intent.state == "intended" and intent.why  # by a channel that dedupes, perhaps it is out
        if tried or word.by == by or word.digest == digest_of(channel, effect):
            return intent, word
    if word is None:
        channel, effect = intent.channel, intent.effect
    policy = marked or Approval()  # asked about once, it does not leave because the kind is marked no more
    body = effect.model_dump_json()
    asked = dict(effect=intent.key, case=work.case.id, what="asked", digest=digest_of(channel, effect), body=body)
    asked |= dict(by=by, until=time.time() + policy.hours * 3600, then=policy.then, at=time.time())
    c.execute(insert(approvals).values(asked))
    values = dict(state="waiting", channel=channel, body=body, fence=work.fence, at=time.time(), why="")
    c.execute(update(effects).where(effects.c.key == intent.key).values(values))
    return intent._replace(state="waiting", channel=channel, effect=effect), newest_word(c, intent.key)


def overdue(word: Word) -> bool:
    """Whether people are still to be told once more."""
    return word.what == "asked" and word.then == "escalate" and time.time() >= word.until


def told(c: Connection, case: CaseId, key: str) -> None:
    """People were told once more that an effect waits."""
    if _locked(c, case, key).state == "waiting":  # or somebody spoke meanwhile
        _say(c, key, "told")


def what_waits(c: Connection, agent: str = "", case: CaseId = 0) -> list[Waiting]:
    """What waits for somebody's word, the longest first; of an agent, of a case, or all."""
    found = _waiting_rows()
    if agent:
        found = found.where(cases.c.agent == agent)
    if case:
        found = found.where(cases.c.id == case)
    return [_waiting(row) for row in c.execute(found.limit(MOST)).all()]


def how_many(c: Connection) -> int:
    """How many effects wait for somebody's word."""
    return int(c.execute(select(func.count()).select_from(_waiting_rows().subquery())).scalar_one())


def decide(
    c: Connection,
    case: CaseId,
    digest: str,
    permit: bool,
    who: str,
    why: str = "",
    instead: Mapping[str, JsonValue] | None = None,
) -> bool:
    """A person's word on the effect of a case that was asked about under a digest; False if it was said before.

    `instead` has a subject, body or data to be sent in place of what was asked about. The first word counts: BadInput
    for another one that comes later, for a digest of what is not wanted any more, and for texts that can not be taken.
    """
    who, why = plain_text("who", who), plain_text("why", why)
    if not who:
        raise BadInput("Nobody says it: give a name as who.")
    if instead and not permit:
        raise BadInput("What is denied is not sent: leave the other words out, or permit it.")
    asked = _asked(c, case, digest)
    row = _locked(c, case, asked.effect)
    word = newest_word(c, row.key)
    assert word is not None
    what = f"{row.kind} of case {case}"
    if word.digest != asked.digest:
        raise BadInput(f"The {what} is wanted in other words by now; look at it again: `waiting {case}`.")
    effect = _edited(Effect.model_validate_json(asked.body), instead or {})
    sends = digest_of(row.channel, effect) if permit else ""
    if row.state != "waiting":
        if (word.what != "denied") == permit and _sent(c, row.key) == sends:
            return False
        at = time.strftime("%d %b %H:%M", time.gmtime(word.at))
        again = f"; to be asked again: `redo {case}`" if row.state == "denied" else ""
        raise BadInput(f"{word.who} {word.what} the {what} before ({at} UTC), so nothing is changed{again}.")
    if not permit:
        _say(c, row.key, "denied", who, why)
        values = dict(state="denied", why=f"denied by {who}")
    else:
        edited = sends != asked.digest
        body = effect.model_dump_json()
        _say(c, row.key, "edited" if edited else "permitted", who, why, sends=sends, body=body if edited else "")
        values = dict(state="intended", body=body)
    c.execute(update(effects).where(effects.c.key == row.key).values(values))
    _open(c, case)
    return True


def run_out(c: Connection, agent: str = "") -> list[str]:
    """What comes of effects that nobody spoke of in time. Returns what happened, for people.

    Those that are to be told of once more bring their case back: `perform()` tells, and the case waits on.
    """
    late = _waiting_rows().where(approvals.c.until <= time.time(), approvals.c.what != "told")
    if agent:
        late = late.where(cases.c.agent == agent)
    said = []
    for one in [_waiting(row) for row in c.execute(late.limit(MOST)).all()]:
        row, word = _locked(c, one.case, one.key), newest_word(c, one.key)
        if row.state != "waiting" or word != one.word:
            continue  # somebody was first
        what = f"nobody spoke in time of {row.kind} of case {one.case}"
        if word.then == "deny":
            _say(c, one.key, "denied", NOBODY, "nobody spoke in time")
            c.execute(update(effects).where(effects.c.key == one.key).values(state="denied", why=f"denied by {NOBODY}"))
            said.append(f"{what}: it is denied")
            _open(c, one.case)
        elif _open(c, one.case):
            said.append(f"{what}: people are told once more")
    return said


def agent_of(c: Connection, case: CaseId) -> str:
    """Whose case it is; empty if there is none of that id."""
    return str(c.execute(select(cases.c.agent).where(cases.c.id == case)).scalar() or "")


def words_of(c: Connection, case: CaseId) -> list[Row[Any]]:
    """All that was asked and said of a case's effects, oldest first, with the `kind` of each."""
    found = select(approvals, effects.c.kind).join(effects, effects.c.key == approvals.c.effect)
    return list(c.execute(found.where(approvals.c.case == case).order_by(approvals.c.id)).all())


def _waiting_rows() -> Select[Any]:
    newest = select(func.max(approvals.c.id)).where(approvals.c.effect == effects.c.key).correlate(effects)
    joined = effects.join(cases, cases.c.id == effects.c.case)
    joined = joined.join(approvals, approvals.c.id == newest.scalar_subquery())
    word = [approvals.c[name].label(f"word_{name}") for name in Word._fields]
    found = select(effects, cases.c.agent, *word).select_from(joined)
    return found.where(waiting_effects(), cases.c.state != "settled").order_by(effects.c.at)


def _waiting(row: Row[Any]) -> Waiting:
    word = Word._make(getattr(row, f"word_{name}") for name in Word._fields)
    return Waiting(row.case, row.agent, row.key, row.channel, Effect.model_validate_json(row.body), row.at, word)


def _asked(c: Connection, case: CaseId, digest: str) -> Row[Any]:
    given = digest.strip().lower()
    if not 0 < case <= GREATEST or not SHOWN <= len(given) <= 64 or not given.isalnum():
        raise BadInput(f"Name a case and at least {SHOWN} characters of what `waiting` shows as its digest.")
    mine = (approvals.c.case == case, approvals.c.what == "asked", approvals.c.digest.startswith(given))
    row = c.execute(select(approvals).where(*mine).order_by(approvals.c.id.desc()).limit(1)).one_or_none()
    if row is None:
        raise BadInput(f"Nobody was asked about {given[:SHOWN]} in case {case}; `waiting` lists what waits.")
    return row


def _locked(c: Connection, case: CaseId, key: str) -> Row[Any]:
    # The case first, as whoever parks it does: a word that comes meanwhile finds it parked, or is found by it.
    c.execute(select(cases.c.id).where(cases.c.id == case).with_for_update()).one()
    return c.execute(select(effects).where(effects.c.key == key).with_for_update()).one()


def _sent(c: Connection, key: str) -> str:
    said = select(approvals.c.sends).where(approvals.c.effect == key).order_by(approvals.c.id.desc()).limit(1)
    return str(c.execute(said).scalar_one())


def _say(c: Connection, key: str, what: str, who: str = "", why: str = "", sends: str = "", body: str = "") -> None:
    """Nothing is ever changed here, only added: the newest row counts."""
    last = c.execute(select(approvals).where(approvals.c.effect == key).order_by(approvals.c.id.desc()).limit(1)).one()
    row = {name: last._mapping[name] for name in ("effect", "case", "digest", "by", "until", "then")}
    c.execute(insert(approvals).values(row | dict(what=what, who=who, why=why, sends=sends, body=body, at=time.time())))


def _open(c: Connection, case: CaseId) -> bool:
    waits = (cases.c.id == case, cases.c.state == "parked", cases.c.reason.startswith(WAITS))
    return c.execute(update(cases).where(*waits).values(state="open", reason="")).rowcount == 1


def _edited(effect: Effect, instead: Mapping[str, JsonValue]) -> Effect:
    for name, longest in LONGEST.items():
        if len(str(instead.get(name, ""))) > longest:
            raise BadInput(f"The {name} has more than {longest} characters: shorten it.")
    try:
        # To whom it goes, and in answer to what, is not a matter of words.
        given = {name: value for name, value in instead.items() if name in ("subject", "body", "data")}
        return Effect.model_validate(effect.model_dump() | given)
    except ValidationError as why:
        raise BadInput(f"That can not be sent instead: {why.errors()[0]['msg']}.") from why
