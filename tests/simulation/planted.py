"""Five bugs as a good engineer might write them, planted to see that the simulation finds each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from sqlalchemy import bindparam, delete, insert, select, update

import skills
import tasks.lease
import tasks.ledger.cases
import tasks.ledger.effects
import tasks.ledger.holders
import tasks.ledger.steps
from tasks import channels
from tasks.effects import effect_key
from tasks.ledger.effects import confirm, dispatching, intend
from tasks.ledger.tables import attempts, cases, effects
from tasks.records import Effect, Receipt
from tasks.working import in_hand
from tests.simulation import outside
from tests.simulation.replaced import Clock

_UNGUARDED = (
    update(cases)
    .where(cases.c.id == bindparam("held"), bindparam("mine") > 0)
    .values(stored=cases.c.stored + bindparam("more"))
)


@contextlib.contextmanager
def a_fence_is_not_checked() -> Iterator[None]:
    with (
        patch.object(tasks.ledger.cases, "guard", lambda *_: None),
        patch.object(tasks.ledger.effects, "guard", lambda *_: None),
        patch.object(tasks.ledger.steps, "_COUNTED", _UNGUARDED),
    ):
        yield


async def _send_first(effect: Effect) -> Receipt:
    hand = in_hand("perform")
    work, holder = hand.work, hand.lease.holder
    channel, key = work.agent.effects[effect.kind], effect_key(work.case, effect, work.resend, work.dry_run)
    row = await hand.ledger.read("see", lambda c: c.execute(select(effects).where(effects.c.key == key)).one_or_none())
    if work.dry_run or (row is not None and row.state == "confirmed"):
        return Receipt(channel=channel, reference=key, at=outside.AT)
    receipt = await tasks.effects._to_the_end(lambda: channels.send(channel, key, effect, ""))

    def enter(c: Any) -> None:
        intend(c, work, key, channel, effect)
        dispatching(c, work, key, holder, False)
        confirm(c, key, holder, receipt)

    await hand.ledger.write("intend, dispatch and confirm", enter)
    return receipt


@contextlib.contextmanager
def an_intent_is_committed_after_the_send() -> Iterator[None]:
    with patch.object(outside, "perform", _send_first):
        yield


class _WallClock(Clock):
    def monotonic(self) -> float:
        return self.time()


@contextlib.contextmanager
def a_lease_is_judged_by_the_wall_clock() -> Iterator[None]:
    with (
        patch.object(tasks.lease, "time", _WallClock()),
        patch.object(tasks.ledger.holders, "time", _WallClock()),
    ):
        yield


@contextlib.contextmanager
def an_effect_is_reconciled_without_proof_of_death() -> Iterator[None]:
    with patch.object(tasks.ledger.effects, "proved_dead", lambda *_: True):
        yield


@contextlib.contextmanager
def an_attempt_is_counted_when_it_ends() -> Iterator[None]:
    begin = skills.begin

    def uncounted(c: Any, case: int, **how: Any) -> Any:
        work = begin(c, case, **how)
        if isinstance(work, tasks.ledger.cases.Work):
            c.execute(delete(attempts).where(attempts.c.case == case, attempts.c.fence == work.fence))
        return work

    def counted(c: Any, case: int, fence: int, how: str, why: str, replayed: int) -> None:
        row = dict(case=case, fence=fence, holder="", skill="practice", version="1", flow_run="", begun=0, how=how)
        c.execute(insert(attempts).values(**row, why=why, replayed=replayed))

    with patch.object(skills, "begin", uncounted), patch.object(tasks.ledger.cases, "end_attempt", counted):
        yield


# Each with what the simulation may say when it found it: which is true first depends on the story.
PLANTED: dict[Callable[[], contextlib.AbstractContextManager[None]], tuple[str, ...]] = {
    a_fence_is_not_checked: ("a late writer", "worked at the same time", "its holder is", "concluded twice"),
    an_intent_is_committed_after_the_send: ("without its claim", "went out twice"),
    a_lease_is_judged_by_the_wall_clock: ("runs again", "last beat is", "without its claim", "went out twice"),
    an_effect_is_reconciled_without_proof_of_death: ("went out twice", "without its claim"),
    an_attempt_is_counted_when_it_ends: ("attempt is not counted",),
}
