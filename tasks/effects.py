"""perform(): a change to the outside world, made at most once, or known to be unknown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection

from tasks import channels
from tasks.errors import BadInput, Denied, FenceLost, InDoubt, NotSent, Parked, Refused, Waits
from tasks.ledger.approvals import SHOWN, Word, ask, overdue, told
from tasks.ledger.effects import Intent, confirm, dispatching, intend, not_sent, unknown
from tasks.records import Case, Effect, Receipt
from tasks.working import Hand, in_hand

T = TypeVar("T")
log = logging.getLogger("holdfast.effects")

TELLS = ("hand_over", "page")  # kinds that reach a person, in the order in which they are tried
TO_THE_SENDER = "reply"  # the one kind that leaves for an address, which must be the case's own


def effect_key(case: Case, effect: Effect, resend: int = 0, rehearsed: bool = False) -> str:
    """Business intent: what, to whom, about which case; never the run, the attempt or the skill's version."""
    again = f"#{resend}" if resend else ""
    rehearsal = "rehearsed:" if rehearsed else ""  # a rehearsal never stands in the way of the real thing
    return f"{rehearsal}{effect.kind}/{effect.to}/{case.source}/{case.key}{again}"[:400]


def reply_to(case: Case, text: str) -> Effect:
    """An answer in the conversation of a case, to whoever wrote it and nobody else."""
    mid = str(case.attributes.get("message_id") or "")
    known = case.attributes.get("references")
    earlier = tuple(str(one) for one in known) if isinstance(known, list | tuple) else ()
    subject = case.subject if case.subject.lower().startswith("re:") else f"Re: {case.subject}"
    references = (*earlier, mid) if mid else earlier
    return Effect(
        kind=TO_THE_SENDER, to=case.sender, subject=subject, body=text, in_reply_to=mid, references=references
    )


async def perform(effect: Effect) -> Receipt:
    """Make the effect happen once for the case in hand.

    Returns the receipt, also of an earlier attempt, and in dry run one that says `rehearsed`.
    Raises Refused (not allowed), Denied (a person said no), Parked (switched off, a person's word is waited for, or
    nobody can tell whether it is out) and NotSent (certainly not out: the case is tried again later).
    """
    hand = in_hand(f"perform {effect.kind}")
    work = hand.work
    channel = _allowed(hand, effect)
    key = effect_key(work.case, effect, work.resend, work.dry_run)
    doing = f"{effect.kind} for case {work.case.id}"
    by = f"{hand.skill}/{hand.version}/{work.take}"

    def enter(c: Connection) -> tuple[Intent, Word | None]:
        return ask(c, work, by, intend(c, work, key, channel, effect), channel, effect)

    intent, word = await hand.ledger.write(f"intend {doing}", enter)
    if intent.state == "rehearsed":
        return Receipt(channel=channel, reference=key, at=datetime.now(UTC), rehearsed=True)
    if intent.state == "denied" and word is not None:
        raise Denied(f"The {doing} was denied by {word.who}{': ' if word.why else '.'}{word.why}")
    if intent.state == "waiting" and word is not None:
        if overdue(word):
            await _tell_again(hand, intent)
        number = work.case.id
        raise Waits(key, doing, f"(see `waiting {number}`): `permit` or `deny {number} {word.digest[:SHOWN]}`")
    return await _carry_out(hand, intent, doing)


async def _carry_out(hand: Hand, intent: Intent, doing: str) -> Receipt:
    """Let an effect leave that may."""
    work, key = hand.work, intent.key
    if intent.state == "confirmed" and intent.receipt is not None:
        return intent.receipt
    if intent.state == "unknown":
        raise InDoubt(key, doing, intent.why)
    asked = False
    if intent.state == "dispatching":
        # A process died, or was frozen, between «now» and «done»: only the outside knows.
        if found := await _look(hand, intent, doing):
            return found
        asked = True
    claim = partial(dispatching, work=work, key=key, holder=hand.lease.holder, again=asked)
    refusal = await hand.ledger.write(f"dispatch {doing}", claim)
    if refusal.startswith("effects are switched off"):
        raise Parked(f"{refusal} for agent {work.case.agent!r}; `switch {work.case.agent} on` brings its cases back")
    if refusal:
        await hand.ledger.write(f"mark {doing}", lambda c: unknown(c, key, refusal))
        raise InDoubt(key, doing, refusal)
    if asked and (found := await _look(hand, intent, doing)):
        return found  # the old dispatcher was just killed: what it did last is seen only now
    return await _dispatch(hand, intent, doing)


def _allowed(hand: Hand, effect: Effect) -> str:
    """The channel for an effect that this agent may perform; Refused otherwise."""
    case, agent = hand.work.case, hand.work.agent
    channel = agent.effects.get(effect.kind)
    if channel is None:
        allowed = ", ".join(sorted(agent.effects)) or "none"
        raise Refused(f"Case {case.id}: agent {agent.name!r} may not {effect.kind!r} (allowed: {allowed}).")
    if effect.kind == TO_THE_SENDER and (not effect.to or effect.to != case.sender):
        raise Refused(f"Case {case.id}: a reply may only go to the case's sender; hand the case over instead.")
    if effect.kind != TO_THE_SENDER and effect.to:
        raise Refused(f"Case {case.id}: {effect.kind!r} goes where its channel says, not to an address.")
    return channel


async def _tell_again(hand: Hand, waits: Intent) -> None:
    """Tell people, once, that an effect still waits for them; by an effect of its own that waits for nobody."""
    work, agent = hand.work, hand.work.agent
    kind = next((one for one in TELLS if one in agent.effects and one not in agent.approvals), "")
    if kind:
        what = f"{waits.effect.kind} of case {work.case.id} of agent {agent.name}"
        body = f"The {what} still waits for your word.\n\n    python -m deployments waiting {work.case.id}\n"
        notice = Effect(kind=kind, subject=f"Still waits for you: {what}", body=body)
        key = f"told again:{waits.key}"[:400]
        doing = f"telling of {waits.effect.kind} for case {work.case.id}"
        entered = partial(intend, work=work, key=key, channel=agent.effects[kind], effect=notice)
        intent = await hand.ledger.write(f"intend {doing}", entered)
        try:
            await _carry_out(hand, intent, doing)
        except (InDoubt, Refused, BadInput) as why:
            log.warning("Case %s: people may not know of what waits for them: %s", work.case.id, why)
    else:
        log.warning("Case %s: its agent may tell nobody that an effect still waits.", work.case.id)
    await hand.ledger.write(f"note {waits.effect.kind} as told of", lambda c: told(c, work.case.id, waits.key))


async def _look(hand: Hand, intent: Intent, doing: str) -> Receipt | None:
    """Ask the outside for an effect that was on its way; Parked if it can not be asked."""
    if not channels.can_find(intent.channel):
        if channels.dedupes(intent.channel):
            return None  # it may be out already: then the outside takes it for the same one
        why = f"{intent.channel.partition(':')[0]} can not look for it"
        await hand.ledger.write(f"mark {doing}", lambda c: unknown(c, intent.key, why))
        raise InDoubt(intent.key, doing, why)
    found = await _to_the_end(lambda: channels.find(intent.channel, intent.key))
    if found is None:
        return None
    receipt = found.model_copy(update={"found": True})
    await hand.ledger.write(f"confirm {doing}", lambda c: confirm(c, intent.key, hand.lease.holder, receipt))
    return receipt


async def _dispatch(hand: Hand, intent: Intent, doing: str) -> Receipt:
    work, key = hand.work, intent.key

    def send() -> Receipt:
        # In the thread, right before the call: a process that was frozen after its claim stops here.
        if not hand.lease.fresh():
            raise FenceLost(work.case.id, work.fence, "dispatch an effect")
        return channels.send(intent.channel, key, intent.effect, work.agent.address)

    try:
        receipt = await _to_the_end(send)
    except (NotSent, Refused, BadInput) as why:
        reason = str(why)
        await hand.ledger.write(f"take back {doing}", lambda c: not_sent(c, work, key, hand.lease.holder, reason))
        raise
    except Exception as why:
        log.warning("The channel failed during %s: %s", doing, why)
        reason = f"{type(why).__name__}: {why}"
        can_find = channels.can_find(intent.channel)
        if can_find and (found := await _look(hand, intent, doing)):
            return found
        if can_find or channels.dedupes(intent.channel):
            await hand.ledger.write(f"take back {doing}", lambda c: not_sent(c, work, key, hand.lease.holder, reason))
            known = f"The outside does not have {doing}" if can_find else f"Nobody can tell whether {doing} is out"
            raise NotSent(f"{known} ({reason}): it is sent again.") from why
        await hand.ledger.write(f"mark {doing}", lambda c: unknown(c, key, reason))
        raise InDoubt(key, doing, reason) from why
    await hand.ledger.write(f"confirm {doing}", lambda c: confirm(c, key, hand.lease.holder, receipt))
    return receipt


async def _to_the_end(call: Callable[[], T]) -> T:
    """Run a blocking call in a thread; cancelled, wait for it all the same: nobody may act after the batch ended."""
    running = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        raise
