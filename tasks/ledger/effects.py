"""The states of an effect: intended, dispatching, confirmed; waiting and denied; unknown and rehearsed."""

from __future__ import annotations

import time
from typing import NamedTuple

from sqlalchemy import Connection, Row, insert, select, update

from tasks.errors import IN_DOUBT, FenceLost
from tasks.ledger.cases import Work, guard
from tasks.ledger.holders import proved_dead
from tasks.ledger.tables import agents, cases, effects, on_their_way
from tasks.process import is_gone
from tasks.records import Effect, Receipt


class Intent(NamedTuple):
    """An effect as the ledger has it."""

    key: str
    state: str
    channel: str
    effect: Effect
    dispatcher: str | None
    receipt: Receipt | None
    why: str


def _intent(row: Row[tuple[object, ...]]) -> Intent:
    receipt = Receipt.model_validate_json(str(row.receipt)) if row.receipt else None
    body = Effect.model_validate_json(str(row.body))
    return Intent(str(row.key), str(row.state), str(row.channel), body, row.dispatcher, receipt, str(row.why))


def intend(c: Connection, work: Work, key: str, channel: str, effect: Effect) -> Intent:
    """Enter what shall happen, or return what was entered before: the first body stands, whoever asks again."""
    guard(c, work.case.id, work.fence, f"intend {effect.kind}")
    row = c.execute(select(effects).where(effects.c.key == key).with_for_update()).one_or_none()
    if row is None:
        state = "rehearsed" if work.dry_run else "intended"
        values = dict(
            key=key,
            case=work.case.id,
            kind=effect.kind,
            channel=channel,
            body=effect.model_dump_json(),
            state=state,
            fence=work.fence,
            at=time.time(),
        )
        c.execute(insert(effects).values(values))
        row = c.execute(select(effects).where(effects.c.key == key)).one()
    return _intent(row)


def dispatching(c: Connection, work: Work, key: str, holder: str, again: bool) -> str:
    """Claim the right to send, the last word before the call. Returns '' or why it may not be sent.

    `again` says that the caller asked the outside and it was not there: then the old dispatcher must be proved dead.
    """
    guard(c, work.case.id, work.fence, "dispatch an effect")
    if not c.execute(select(agents.c.effects_on).where(agents.c.name == work.case.agent)).scalar_one():
        return "effects are switched off"
    row = c.execute(select(effects).where(effects.c.key == key).with_for_update()).one()
    if row.state == "dispatching" and row.dispatcher != holder:
        if not (again and proved_dead(c, row.dispatcher)):
            return "an earlier dispatch may still be on its way"
    elif row.state not in ("intended", "dispatching"):
        return f"it is {row.state}"
    c.execute(
        update(effects)
        .where(effects.c.key == key)
        .values(state="dispatching", dispatcher=holder, fence=work.fence, at=time.time())
    )
    return ""


def confirm(c: Connection, key: str, holder: str, receipt: Receipt) -> None:
    """Enter that it is out. Needs no case lease: a late «it went out» is true whoever holds the case now."""
    row = c.execute(select(effects).where(effects.c.key == key).with_for_update()).one()
    if row.state == "confirmed":
        return
    c.execute(
        update(effects).where(effects.c.key == key).values(state="confirmed", receipt=receipt.model_dump_json(), why="")
    )
    # A process that was given up may thaw and say so while the case waits for a person's word on just this.
    waits = (cases.c.id == row.case, cases.c.state == "parked", cases.c.reason.startswith(IN_DOUBT))
    c.execute(update(cases).where(*waits).values(state="open", reason=""))


def not_sent(c: Connection, work: Work, key: str, holder: str, why: str) -> None:
    """The channel is certain that nothing left: the effect is intended again."""
    mine = (effects.c.key == key, effects.c.state == "dispatching", effects.c.dispatcher == holder)
    if c.execute(update(effects).where(*mine).values(state="intended", dispatcher=None, why=why)).rowcount != 1:
        raise FenceLost(work.case.id, work.fence, "take a dispatch back")


def unknown(c: Connection, key: str, why: str) -> None:
    """Nobody can tell whether it is out: a person decides, it is never repeated blindly."""
    doubt = (effects.c.key == key, effects.c.state == "dispatching")
    c.execute(update(effects).where(*doubt).values(state="unknown", why=why))


def kinds_done(c: Connection, case: int, rehearsed: bool) -> set[str]:
    """Kinds of effects that a case has had, or would have had."""
    state = "rehearsed" if rehearsed else "confirmed"
    return set(c.execute(select(effects.c.kind).where(effects.c.case == case, effects.c.state == state)).scalars())


def kinds_wanted(c: Connection, case: int, rehearsed: bool) -> set[str]:
    """Kinds of effects that a case's attempts were about to have, whatever became of them."""
    state = effects.c.state == "rehearsed" if rehearsed else effects.c.state != "rehearsed"
    return set(c.execute(select(effects.c.kind).where(effects.c.case == case, state)).scalars())


def still_held_up(c: Connection, key: str) -> bool:
    """False if somebody spoke of the effect meanwhile, or it was confirmed."""
    # Locked: what others are about to say of it is waited for, and not missed.
    state = c.execute(select(effects.c.state).where(effects.c.key == key).with_for_update()).scalar()
    return state in ("dispatching", "unknown", "waiting")


def resolve_unknown(c: Connection, key: str, sent: bool, who: str) -> bool:
    """A person's word on an unknown effect; False if it is not unknown."""
    receipt = Receipt.model_validate(dict(channel="", reference=f"told by {who}", at=time.time(), found=True))
    values = (
        dict(state="confirmed", receipt=receipt.model_dump_json()) if sent else dict(state="intended", dispatcher=None)
    )
    return (
        c.execute(update(effects).where(effects.c.key == key, effects.c.state == "unknown").values(values)).rowcount
        == 1
    )


def on_its_own(c: Connection) -> list[Row[tuple[object, ...]]]:
    """Effects on their way whose process is proved dead, of cases that nobody works."""
    found = (
        select(effects)
        .join(cases, cases.c.id == effects.c.case)
        .where(on_their_way(), effects.c.state == "dispatching", cases.c.state != "working")
    )
    return [row for row in c.execute(found).all() if proved_dead(c, row.dispatcher, is_gone)]


def take_back(c: Connection, key: str, dispatcher: str, why: str) -> None:
    """Its process is dead, and it is not out or would count once outside: the effect is intended again."""
    lost = (effects.c.key == key, effects.c.state == "dispatching", effects.c.dispatcher == dispatcher)
    c.execute(update(effects).where(*lost).values(state="intended", dispatcher=None, why=why))


def in_doubt(c: Connection) -> list[Row[tuple[object, ...]]]:
    """Effects that were on their way when something happened."""
    return list(c.execute(select(effects).where(on_their_way())).all())
