"""The whole framework for writing skills: ONCE_PER_CASE, each() and what a skill may call."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from sqlalchemy import Connection

from skills._catalogue import can_keep_rules, catalogue, describe, knowledge_of, skill_flow, versions
from skills._denied import denied
from tasks.effects import perform, reply_to
from tasks.errors import (
    BadInput,
    BudgetReached,
    Denied,
    Draining,
    Halt,
    HoldfastError,
    NotNow,
    NotSent,
    Parked,
    StepRefused,
    Unavailable,
    Unusable,
)
from tasks.lease import Lease, holding
from tasks.ledger import Ledger, the_ledger
from tasks.ledger.calls import forget_answers, replayed
from tasks.ledger.cases import NotBegun, Work, begin, come_back, guard, hand_back, lanes, park, settle, try_later
from tasks.ledger.effects import still_held_up
from tasks.ledger.routing import send_on
from tasks.model import PAID, ask
from tasks.records import Case, CaseId, Outcome, Routed
from tasks.store import ONCE_PER_CASE, skill_in_hand
from tasks.working import WORKING, Hand, policy

__all__ = [
    "ONCE_PER_CASE",
    "PAID",
    "Case",
    "CaseId",
    "Denied",
    "HoldfastError",
    "Outcome",
    "Parked",
    "Routed",
    "Unusable",
    "ask",
    "can_keep_rules",
    "catalogue",
    "describe",
    "each",
    "knowledge_of",
    "perform",
    "policy",
    "reply_to",
    "skill_flow",
    "versions",
]

T = TypeVar("T")
Worker = Callable[[Case], Awaitable[Outcome | Routed]]


async def each(cases: Sequence[CaseId], work: Worker, *, concurrency: int | None = None) -> None:
    """Work a batch of cases, each to its own end.

    Cases of one conversation go in order, the others side by side (`concurrency`, or the agent's own).
    A case is settled as it finishes; one that fails is handed back and the others go on. A lost ledger or
    fence ends the batch with nobody left acting. Raises StepRefused outside of a flow with a declared version.
    """
    skill, version, flow_run = skill_in_hand()
    ledger = the_ledger()
    async with holding(ledger, flow_run) as lease:
        batch = _Batch(ledger, lease, skill, version, flow_run, work)
        found = await ledger.read("read the batch", lambda c: lanes(c, list(cases)))
        for missing in sorted(set(cases) - {lane.case for lane in found}):
            batch.log.warning("Case %s does not exist; take ids from a tick's table.", missing)
        # A case that was in hand when a process died may be what killed it: it risks nobody but itself.
        for lane in found:
            if lane.alone:
                await batch.one(lane.case, alone=True)
        conversations: dict[tuple[str, str], list[CaseId]] = defaultdict(list)
        for lane in found:
            if not lane.alone:
                conversations[lane.conversation].append(lane.case)
        places = asyncio.Semaphore(concurrency or min((lane.concurrency for lane in found), default=1))
        try:
            async with asyncio.TaskGroup() as group:
                for line in conversations.values():
                    group.create_task(batch.in_order(line, places))
        except BaseExceptionGroup as many:
            raise _worst(many) from many


def _worst(many: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error that says why a batch ended."""
    halts = many.subgroup(Halt)
    one: BaseException = halts if halts is not None else many
    while isinstance(one, BaseExceptionGroup):
        one = one.exceptions[0]
    return one


class _Batch:
    """What all cases of a batch share."""

    def __init__(self, ledger: Ledger, lease: Lease, skill: str, version: str, flow_run: str, work: Worker) -> None:
        self.ledger, self.lease, self.work = ledger, lease, work
        self.skill, self.version, self.flow_run = skill, version, flow_run
        try:
            self.log: logging.Logger | logging.LoggerAdapter[logging.Logger] = get_run_logger()
        except MissingContextError:
            self.log = logging.getLogger("holdfast.skills")

    async def in_order(self, line: list[CaseId], places: asyncio.Semaphore) -> None:
        for case in line:
            async with places:
                await self.one(case)

    async def one(self, case: CaseId, alone: bool = False) -> None:
        start = partial(
            begin,
            case=case,
            holder=self.lease.holder,
            skill=self.skill,
            version=self.version,
            flow_run=self.flow_run,
            alone=alone,
        )
        begun = await self.ledger.write(f"begin case {case}", start)
        if isinstance(begun, NotBegun):
            self.log.info("Case %s is not begun: %s.", case, begun.why)
            return
        hand = Hand(begun, self.ledger, self.lease, self.skill, self.version, self.flow_run, begun.steps)
        token = WORKING.set(hand)
        try:
            outcome = await self._worked(begun)
        except Parked as why:
            reason, key = str(why), why.key
            wants = (why.wants, why.wants_tokens) if isinstance(why, BudgetReached) else (0, 0)

            def put_aside(c: Connection) -> str:
                # The row of the case is locked first: a word that comes later finds it parked and opens it.
                guard(c, case, begun.fence, "park it")
                if key and not still_held_up(c, key):
                    return hand_back(c, begun, f"{reason}; that was settled meanwhile", False, hand.replayed)
                park(c, begun, reason, hand.replayed, wants)
                return "parked"

            state = await self._end(f"park case {case}", hand, put_aside)
            self.log.warning("Case %s is %s: %s.", case, state, reason)
        except Draining as why:
            reason = str(why)
            await self._end(f"hand case {case} back", hand, lambda c: hand_back(c, begun, reason, False, hand.replayed))
            self.log.info(reason)
        except NotNow as why:
            reason, seconds = str(why), why.seconds
            await self._end(
                f"hand case {case} back", hand, lambda c: come_back(c, begun, reason, seconds, hand.replayed)
            )
            self.log.warning("Case %s comes back later: %s", case, reason)
        except NotSent as why:
            reason = str(why)
            state = await self._end(
                f"hand case {case} back", hand, lambda c: try_later(c, begun, reason, hand.replayed)
            )
            self.log.warning("Case %s is %s, its effect did not leave: %s", case, state, reason)
        except (StepRefused, SystemExit, Exception) as why:  # a case that calls sys.exit() ends itself alone
            reason = f"{type(why).__name__}: {why}"[:1000]
            # What was answered may be why it failed, unless there was no answer.
            state = await self._end(
                f"hand case {case} back",
                hand,
                lambda c: hand_back(c, begun, reason, True, hand.replayed),
                ask_anew=not isinstance(why, Unavailable),
            )
            self.log.error("Case %s failed and is %s: %s", case, state, reason)
        else:
            if isinstance(outcome, Routed):
                on = partial(send_on, work=begun, to=outcome, replayed=hand.replayed)
                await self._end(f"send case {case} on", hand, on, ask_anew=True)
                self.log.info("Case %s goes to %s: %s", case, outcome.skill, outcome.why)
                return
            done = partial(
                settle,
                work=begun,
                outcome=outcome,
                skill=self.skill,
                version=self.version,
                flow_run=self.flow_run,
                replayed=hand.replayed,
            )
            await self._end(f"settle case {case}", hand, done, ask_anew=True)
            self.log.info("Case %s: %s %s", case, outcome.kind, outcome.answer)
            if outcome.kind == "acted" and outcome.answer in begun.policy.held:
                self.log.warning("Case %s: a rule leaves this answer to people; ask policy().acts_on() first.", case)
        finally:
            WORKING.reset(token)

    async def _end(self, doing: str, hand: Hand, job: Callable[[Connection], T], ask_anew: bool = False) -> T:
        """End the attempt, and book in the same transaction which model calls it did not have to pay again.

        With `ask_anew` nobody gets an answer again that this attempt could not make a step of.
        """

        def write(c: Connection) -> T:
            result = job(c)
            if hand.replayed_keys:
                replayed(c, hand.work.case.id, hand.replayed_keys)
            if ask_anew and hand.asking:
                forget_answers(c, hand.work.case.id, hand.asking)
            return result

        return await self.ledger.write(doing, write)

    async def _worked(self, begun: Work) -> Outcome | Routed:
        seconds = begun.agent.case_seconds
        with self.lease.on_time(begun.case.id, seconds):
            try:
                async with asyncio.timeout(seconds):
                    try:
                        outcome = await self.work(begun.case)
                    except Denied as why:
                        outcome = await denied(begun.case, why)
            except TimeoutError as why:
                raise BadInput(
                    f"not finished within {seconds} s (the agent's case_seconds), or a call timed out"
                ) from why
        if not isinstance(outcome, Outcome | Routed):
            raise BadInput(
                f"{self.skill} returned {type(outcome).__name__}; the function given to each() returns an Outcome"
            )
        return outcome
