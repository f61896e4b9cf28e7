"""The world outside of the ledger, and the skill that acts on it: what really happened, whoever believes what."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from prefect.results import ResultRecord, ResultStore

from tasks.effects import perform, reply_to
from tasks.errors import NotSent, Refused
from tasks.records import Agent, Arrival, Case, Effect, Outcome, Receipt
from tasks.sources import Known
from tasks.store import JSON, LEDGER, ONCE_PER_CASE
from tasks.working import in_hand
from tests.simulation.virtual import Door, Proc, stop_at

if TYPE_CHECKING:
    from tests.simulation.world import World

# The channel of replies can be searched, that of hand-overs can not, as with mail and a pager.
AGENT = Agent(
    name="desk",
    source="mail:/inbox",
    skills=["practice"],
    effects={"reply": "known:/sent", "hand_over": "blind:/desk"},
    concurrency=2,
    batch=3,
    case_seconds=90,
)
STAGE = SimpleNamespace(world=None)  # the world of the story that is being played
AT = datetime(2026, 1, 1, tzinfo=UTC)
# What each case wants, in the order of their arrival, and its conversation.
PATHS = (("reply", "a"), ("hand_over", "b"), ("reply", "a"), ("reply, hand_over", "b"), ("nothing", "c"))


def mail(number: int) -> Arrival:
    wants, thread = PATHS[(number - 1) % len(PATHS)]
    return Arrival(
        marker=f"mail-{number}",
        key=f"<{number}>",
        thread=thread,
        sender=f"c{number}@example.com",
        subject=f"Question {number}",
        text=wants,
        arrived=AT,
        attributes={"message_id": f"<{number}>"},
    )


class Outside:
    """The mailbox, the mails that left, the steps that were paid for: the judge's witnesses."""

    def __init__(self, world: World, mails: int) -> None:
        self.world = world
        self.mails = [mail(number) for number in range(1, mails + 1)]
        self.delivered: Counter[str] = Counter()
        self.late: list[str] = []
        self.inside: dict[str, list[Proc]] = defaultdict(list)
        self.known, self.blind = Channel(self, True), Channel(self, False)

    def channel(self, url: str) -> Channel:
        return self.known if url.startswith("known") else self.blind

    def canonical(self, url: str) -> str:
        return url

    def can_finish(self, url: str) -> bool:
        return False

    def poll(self, url: str, known: Known) -> Iterator[Arrival]:
        old = known.seen([one.marker for one in self.mails])
        yield from [one for one in self.mails if one.marker not in old]

    def deliver(self, key: str) -> None:
        self.delivered[key] += 1
        self.world.judge.delivered(key)

    def on_its_way(self, key: str) -> bool:
        """Whether the outside may still receive it: then a person who looks can not tell either."""
        return key in self.late or any(one.exists for one in self.inside[key])

    def arrive_late(self) -> list[str]:
        keys, self.late = self.late, []
        for key in keys:
            self.deliver(key)
        return keys

    def model(self, case: int) -> str:
        fault: list[str] = []
        stop_at(Door(f"the model answers for case {case}", fault.append, lambda: None, ("fails",)))
        if fault[0]:
            raise ConnectionError("the model is overloaded")
        return f"an answer to case {case}"


class Channel:
    """A way out whose replies can be lost or come late."""

    def __init__(self, outside: Outside, can_find: bool) -> None:
        self.outside, self.CAN_FIND = outside, can_find

    def check(self, url: str) -> None:
        return None

    def send(self, url: str, key: str, effect: Effect, sender: str) -> Receipt:
        outside, world = self.outside, self.outside.world
        process = world.current
        assert process is not None
        world.judge.send_begins(process, key)
        outside.inside[key].append(process)
        faults: list[str] = []

        def fire(fault: str) -> None:
            faults.append(fault)
            if fault in ("", "reply lost"):
                outside.deliver(key)
            elif fault == "arrives late":
                outside.late.append(key)

        # A channel that can be searched answers for what it was given: «not there» is final. The other can not tell.
        late = () if self.CAN_FIND else ("arrives late",)
        stop_at(
            Door(f"send {said(key)}", fire, lambda: None, ("reply lost", "no answer", "not sent", "refused", *late))
        )
        outside.inside[key].remove(process)
        if faults[0] == "not sent":
            raise NotSent("the line is dead")
        if faults[0] == "refused":
            raise Refused("no such address")
        if faults[0]:
            raise ConnectionError(faults[0])
        return Receipt(channel=url, reference=key, at=AT)

    def find(self, url: str, key: str) -> Receipt | None:
        found: list[Any] = []
        door = Door(f"look for {said(key)}", lambda fault: found.extend([fault, self.outside.delivered[key]]), bool)
        door.faults = ("fails",)
        stop_at(door)
        if found[0]:
            raise ConnectionError("the archive does not answer")
        return Receipt(channel=url, reference=key, at=AT) if found[1] else None


def said(key: str) -> str:
    """An effect's key in words."""
    kind, _, rest = key.partition("/")
    again = f" (asked for again, {rest.partition('#')[2]})" if "#" in rest else ""
    return f"{kind} of case {rest.rpartition('<')[2].partition('>')[0]}{again}"


STORE = ResultStore(result_storage=LEDGER, serializer=JSON)
RUNNING: ContextVar[Any] = ContextVar("RUNNING", default=None)


def step(fn: Any) -> Any:
    """A step under ONCE_PER_CASE with its real key, lookup and storing, without Prefect's bookkeeping."""

    @functools.wraps(fn)
    async def witnessed(*args: Any) -> Any:
        RUNNING.get().world.judge.step_runs(in_hand("run a step").work, RUNNING.get().key)
        return await fn(*args)

    task = SimpleNamespace(fn=witnessed, isasync=True, isgenerator=False, refresh_cache=False)

    async def run(*args: Any) -> Any:
        hand = in_hand("run a step")
        context = SimpleNamespace(
            task=task, task_run=SimpleNamespace(id=object()), result_store=STORE, world=STAGE.world, key=""
        )
        RUNNING.set(context)
        context.key = ONCE_PER_CASE.compute_key(context, {str(i): one for i, one in enumerate(args)}, {})
        if (kept := hand.steps.get(context.key)) is not None:
            return ResultRecord.deserialize(kept).result
        return await task.fn(*args)

    return run


@step
async def count(case: Case) -> int:
    return len(case.text)


@step
async def draft(case: Case, length: int) -> str:
    return await asyncio.to_thread(RUNNING.get().world.outside.model, case.id)


@step
async def file(case: Case, text: str) -> str:
    return f"filed {text}"


async def work(case: Case) -> Outcome:
    """Two steps, the effects that the case wants, a step."""
    text = await draft(case, await count(case))
    wants: Sequence[str] = case.text.split(", ")
    if "reply" in wants:
        await perform(reply_to(case, text))
    if "hand_over" in wants:
        await perform(Effect(kind="hand_over", body=text))
    await file(case, text)
    return Outcome(kind="abstained" if case.text == "nothing" else "acted", answer=case.text)
