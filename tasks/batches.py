"""Questions that can wait: asked together in a batch of the provider's, at half the price, each paid once."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from tasks.budgets import explain, limits
from tasks.errors import BadInput, BudgetReached, HoldfastError, NotNow
from tasks.lease import Lease
from tasks.ledger import Ledger
from tasks.ledger import later as lane
from tasks.prices import prices
from tasks.records import Usage
from tasks.working import in_hand

if TYPE_CHECKING:
    from tasks.claude import Reply

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]
WHOM = "The batch lane"
TRIES = 3  # of one question, before its case is handed back with an error
BOOKED_AT_ONCE = 50
ARRIVED_SECONDS = 30.0  # from when on a request that a dead process sent is at the provider, or never will be
UNPROVED_SECONDS = 3_600.0  # for a process of another machine, which can not be proved dead
SLACK_SECONDS = 90_000.0  # no clock of ours is further from the provider's


async def respond(step: str, key: str, turn: int, max_tokens: int, request: Mapping[str, Any]) -> Reply:
    """The answer to a request that may take a day.

    Until it is there, NotNow hands the case back, and no tick begins it before. Raises BudgetReached where the money
    does not suffice, BadInput for a request that is refused or that failed three times.
    """
    from tasks import claude

    hand = in_hand("ask a model")
    work, ledger = hand.work, hand.ledger
    # All that is asked is in it: two questions of one step are two, and a changed prompt never gets an older answer.
    asked = claude.digest(key, turn, max_tokens, request)
    row = await ledger.read(f"look for the answer to {step}", lambda c: lane.found(c, work.case.id, asked))
    if row is not None and row.state == "answered":
        return claude.reply_of(row.model, row.reply)
    if row is not None and row.state == "failed":
        remedy = claude.REMEDIES.get(row.status, "")
        if remedy or row.tries >= TRIES:
            await ledger.write(f"give up on {step}", lambda c: lane.give_up(c, work, asked))
            raise BadInput(f"{row.model} did not answer in {row.tries} batch(es): {row.why}. {remedy}".strip())
    if row is None or row.state == "failed":
        model = claude.models_for(hand, step)[0]
        question = claude.worded(max_tokens, request)
        call = claude.call_for(hand, step, key, model, max_tokens, question, batch=True)
        body = json.dumps({"model": model, "max_tokens": max_tokens, **request})
        given: dict[str, Any] = {
            "limits_of": partial(limits, work.agent, work.case.id),
            "asked": asked,
            "request": body,
        }
        short = await ledger.write(f"queue {step}", partial(lane.queue, work=work, call=call, **given))
        if short is not None:
            wanted = call.usd if short.unit == "usd" else call.tokens
            raise BudgetReached(explain(short, wanted), call.usd, call.tokens)
    raise NotNow("it waits for a batch, at half the price and within a day", 0)


async def collect(ledger: Ledger, agent: str, log: Log) -> None:
    """Book what batches of this agent have brought; their cases are ready from then on.

    One look at each, whatever comes of it: the next tick looks again. A batch that a dead process may have asked for
    is looked for before its questions are asked a second time.
    """
    if not await ledger.read("see what waits for a batch", lambda c: lane.anything(c, agent)):
        return
    for batch in await ledger.read("see which batches are open", lambda c: lane.open_batches(c, agent)):
        try:
            if provider := batch.provider or await _found_again(ledger, batch, log):
                await _booked(ledger, batch.id, provider, log)
        except Exception as why:  # the SDK lets errors of its transport through while it reads results
            log.error("Batch %s can not be read now, the next tick tries again: %s", batch.provider or batch.id, why)


async def submit(ledger: Ledger, agent: str, lease: Lease, log: Log) -> None:
    """Send what this agent's cases have queued, together. What can not be sent now stays queued, for a day."""
    if not await ledger.read("see what waits for a batch", lambda c: lane.anything(c, agent)):
        return
    from tasks import claude

    try:
        client = await claude.client()
        while lease.fresh():
            number, items = await ledger.write("make a batch", lambda c: lane.bind(c, agent, lease.holder))
            if not items:
                return
            requests: Any = [{"custom_id": one.custom_id, "params": json.loads(one.request)} for one in items]
            if not lease.fresh():
                return  # frozen meanwhile: whoever took over may be about to look whether this batch is there
            try:
                with claude.told(WHOM):
                    made = await client.messages.batches.create(requests=requests)
            except HoldfastError as why:
                await _not_made(ledger, number, claude.status_of(why), str(why))
                raise
            await ledger.write("keep the batch's id", partial(lane.is_there, batch=number, provider=made.id))
            log.info("%d question(s) wait for batch %s.", len(items), made.id)
    except HoldfastError as why:
        log.error("Questions of %s that wait for a batch could not be sent: %s", agent, why)


async def _not_made(ledger: Ledger, batch: int, status: int, why: str) -> None:
    if status in (400, 413):  # the requests themselves
        await ledger.write("end a refused batch", lambda c: lane.is_refused(c, batch, status, why))
    elif (400 < status < 500 and status not in (408, 409)) or status == 529:
        await ledger.write("queue a batch again", lambda c: lane.is_not_there(c, batch, why))
    # With any other error, or without an answer, it may be there: the next tick looks.


async def _found_again(ledger: Ledger, batch: lane.Batch, log: Log) -> str:
    """The provider's id of a batch that was asked for; empty if nobody can tell yet, or if there is none.

    A batch tells whose it is only by the names in its results. While one that may be ours is at work nothing is asked
    again: that it could be another's costs a day at most, the other mistake would pay for everything twice.
    """
    from tasks import claude

    since, doubts = datetime.fromtimestamp(batch.made - SLACK_SECONDS, UTC), 0
    with claude.told(WHOM):
        async for one in (await claude.client()).messages.batches.list(limit=100):  # the newest first
            if one.created_at < since:
                break
            if sum(one.request_counts.model_dump().values()) != batch.items or await _known(ledger, one.id):
                continue
            if one.processing_status != "ended":
                doubts += 1
                continue
            if one.results_url and await _ours(ledger, batch.id, one.id):
                await ledger.write("keep the batch's id", partial(lane.is_there, batch=batch.id, provider=one.id))
                log.warning("Batch %s was made by a process that died, and is ours.", one.id)
                return one.id
    age = time.time() - batch.made
    if doubts or 0 <= age < (ARRIVED_SECONDS if batch.gone else UNPROVED_SECONDS):
        return ""
    why = "the process that wanted to make it died before"
    await ledger.write("queue a batch again", lambda c: lane.is_not_there(c, batch.id, why))
    return ""


async def _known(ledger: Ledger, provider: str) -> bool:
    return bool(await ledger.read("see whose batch it is", lambda c: lane.known(c, [provider])))


async def _ours(ledger: Ledger, batch: int, provider: str) -> bool:
    from tasks import claude

    results = await (await claude.client()).messages.batches.results(provider)
    try:
        async for line in results:
            # One tells for all: a batch is made of one ledger's questions.
            ours = partial(lane.is_ours, batch=batch, custom_id=line.custom_id)
            return await ledger.read("see whose batch it is", ours)
    finally:
        await results.close()
    return False


async def _booked(ledger: Ledger, batch: int, provider: str, log: Log) -> None:
    from tasks import claude

    client = await claude.client()
    try:
        with claude.told(WHOM):
            found = await client.messages.batches.retrieve(provider)
    except BadInput as why:
        if claude.status_of(why) != 404:
            raise
        await ledger.write("end a batch that is gone", lambda c: lane.has_ended(c, batch, f"{provider} is gone"))
        return
    if found.processing_status != "ended":
        return
    results: list[lane.Result] = []
    with claude.told(WHOM):
        async for line in await client.messages.batches.results(provider):
            results.append(claude.result_of(line))
    for start in range(0, len(results), BOOKED_AT_ONCE):
        some = results[start : start + BOOKED_AT_ONCE]
        await ledger.write("book a batch", partial(lane.book, batch=batch, results=some, cost=_cost))
    await ledger.write("end a batch", lambda c: lane.has_ended(c, batch))
    log.info("Batch %s has ended with %d result(s).", provider, len(results))


def _cost(model: str, used: Usage) -> tuple[int, int]:
    return prices().cost(model, used, batch=True), prices().saved_by_cache(model, used, batch=True)
