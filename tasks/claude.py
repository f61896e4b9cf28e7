"""Claude over its official SDK: one call, paid for within limits and booked once, whatever becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import anthropic
from anthropic.types import Message
from pydantic import BaseModel

from tasks.budgets import explain, limits
from tasks.errors import BadInput, BudgetReached, NotNow, Unavailable
from tasks.ledger.calls import Call, Short, answered, failed, lost, reserve
from tasks.prices import prices
from tasks.records import Usage
from tasks.working import Hand, in_hand

KEY = "ANTHROPIC_API_KEY"
DEFAULT_MODEL = "claude-haiku-5-5"
CALL_SECONDS = 300.0
CONNECT_SECONDS = 10.0
ROOM_SECONDS = 60.0  # while calls under way may turn out cheaper than what was set aside for them
PATIENCE_SECONDS = 20.0  # a longer wait gives the case's place in the batch to another
LONGEST_SECONDS = 3600.0  # a server that asks for more is asked again after this
OVERHEAD_TOKENS = 2_000  # what the provider adds for tools and schemas, generously

REMEDIES = {
    400: "Its message says what is wrong with the request; if it names the length, shorten the knowledge or the case.",
    401: f"Put a valid key into {KEY}.",
    402: "The account has no credit.",
    403: "This key may not use that model or endpoint.",
    404: "Check the model's name (the agent's `models`) and ANTHROPIC_BASE_URL.",
    413: "The request is too large: shorten the knowledge or the case.",
}
UNPAID = (408, 409, 429, 503, 529)


class Reply(NamedTuple):
    """A response that was paid for and booked."""

    model: str
    content: list[dict[str, Any]]
    stop: str
    used: Usage

    @property
    def text(self) -> str:
        return "".join(str(block["text"]) for block in self.content if block.get("type") == "text")


_shut_until: dict[str, float] = {}
"""By model: the monotonic moment until which its server asked everybody in this process to wait."""


def schema_of(output: type[BaseModel]) -> dict[str, Any]:
    """The schema that makes the provider answer in this shape; what it can not enforce is told in descriptions."""
    return anthropic.transform_schema(output)


# Connections belong to an event loop, and go with it.
_ended: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Condition] = WeakKeyDictionary()
_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, anthropic.AsyncAnthropic] = WeakKeyDictionary()


def client() -> anthropic.AsyncAnthropic:
    """The SDK's client for this event loop; BadInput if there is no key."""
    if not (os.environ.get(KEY) or os.environ.get("ANTHROPIC_AUTH_TOKEN")):
        raise BadInput(f"There is no key for Claude. Put one into {KEY}, or leave the agent's `models` empty.")
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        # Retries are Prefect's: the SDK would sleep in this process for as long as a server says.
        timeout = anthropic.Timeout(CALL_SECONDS, connect=CONNECT_SECONDS)
        _clients[loop] = anthropic.AsyncAnthropic(max_retries=0, timeout=timeout)
    return _clients[loop]


def models_for(hand: Hand, step: str) -> Sequence[str]:
    """Models to try for a step, in order: those of `skill.step`, of the skill, of the agent, or the default."""
    chosen = hand.work.agent.models
    for name in (f"{hand.skill}.{step.rpartition('.')[2]}", hand.skill, "any"):
        if chosen.get(name):
            return chosen[name]
    return [DEFAULT_MODEL]


async def respond(step: str, key: str, max_tokens: int, request: Mapping[str, Any]) -> Reply:
    """One answer to a request (`messages`, `system`, `tools` as the API has them) of the first model that gives one.

    Raises BudgetReached before a call that could pass a limit, Unavailable and NotNow where asking again is right,
    BadInput with the remedy where it is not.
    """
    hand, why = in_hand("ask a model"), ""
    for model in models_for(hand, step):
        try:
            return await _one(hand, step, key, model, max_tokens, request)
        except Unavailable as went:
            why = str(went)  # the next model may be there
    raise Unavailable(why)


async def _one(hand: Hand, step: str, key: str, model: str, max_tokens: int, request: Mapping[str, Any]) -> Reply:
    await _wait_for(model)
    # A token is at least one byte, so this can not be too low.
    bound = len(json.dumps(request, ensure_ascii=False).encode()) + OVERHEAD_TOKENS
    usd = prices().at_most(model, bound, max_tokens)
    call = Call(step, key, hand.skill, hand.version, hand.lease.holder, model, usd, bound + max_tokens)
    work, ledger = hand.work, hand.ledger
    given: dict[str, Any] = {"work": work, "call": call, "limits": limits(work.agent, work.case.id)}
    until = time.monotonic() + ROOM_SECONDS
    while isinstance(number := await ledger.write(f"set money aside for {step}", partial(reserve, **given)), Short):
        if not number.soon or time.monotonic() > until:
            wanted = call.usd if number.unit == "usd" else call.tokens
            raise BudgetReached(explain(number, wanted), call.usd, call.tokens)
        await _room_made()
    try:
        return await _made(hand, number, step, model, max_tokens, request)
    finally:
        await _call_ended()


async def _made(hand: Hand, entry: int, step: str, model: str, max_tokens: int, request: Mapping[str, Any]) -> Reply:
    """Make the call and book what became of it."""
    ledger = hand.ledger
    try:
        message: Message = await client().messages.create(model=model, max_tokens=max_tokens, **request)
    except anthropic.APIStatusError as why:
        told = f"{why.status_code} {getattr(why, 'type', '') or ''}: {why.message}"
        await ledger.write(f"end the call for {step}", lambda c: failed(c, entry, told))
        raise _what_to_do(model, why) from why
    except anthropic.APIConnectionError as why:
        told = f"{type(why).__name__}: {why}"
        await ledger.write(f"give the call for {step} up", lambda c: lost(c, entry, told))
        raise Unavailable(f"{model} did not answer ({told}); nobody knows whether that call is charged") from why
    except BaseException as why:
        told = f"{type(why).__name__} while it was waited for"
        with contextlib.suppress(BaseException):
            await asyncio.shield(ledger.write(f"give the call for {step} up", lambda c: lost(c, entry, told)))
        raise
    return await _booked(hand, entry, model, message, step)


async def _room_made() -> None:
    """Wait until a call of this process ended, or for a moment: others may make room too."""
    async with (condition := _condition()):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(condition.wait(), random.uniform(2, 6))  # noqa: S311 (no secret)


async def _call_ended() -> None:
    async with (condition := _condition()):
        # Not all who wait: each of them writes to the ledger to see whether there is room for it.
        condition.notify(2)


def _condition() -> asyncio.Condition:
    return _ended.setdefault(asyncio.get_running_loop(), asyncio.Condition())


async def _booked(hand: Hand, number: int, model: str, message: Message, step: str) -> Reply:
    used = _used(message)
    usd, saved = prices().cost(model, used), prices().saved_by_cache(model, used)
    await hand.ledger.write(f"book the call for {step}", lambda c: answered(c, number, message.id, used, usd, saved))
    content = [block.model_dump(mode="json", exclude_none=True) for block in message.content]
    return Reply(model, content, message.stop_reason or "", used)


def _used(message: Message) -> Usage:
    told = message.usage
    written, by_age = told.cache_creation_input_tokens or 0, told.cache_creation
    hour = by_age.ephemeral_1h_input_tokens if by_age else 0
    return Usage(
        input_tokens=told.input_tokens,
        output_tokens=told.output_tokens,
        cache_write_5m=max(written - hour, 0),
        cache_write_1h=hour,
        cache_read=told.cache_read_input_tokens or 0,
    )


async def _wait_for(model: str) -> None:
    """Keep to what a server asked for, a little apart from the others who wait for it too."""
    left = _shut_until.get(model, 0.0) - time.monotonic()
    if left > PATIENCE_SECONDS:
        raise NotNow(f"{model} asked for {left:.0f} s of rest", left)
    if left > 0:
        await asyncio.sleep(left * random.uniform(1.0, 1.3))  # noqa: S311 (no secret)


def _what_to_do(model: str, why: anthropic.APIStatusError) -> Exception:
    status = why.status_code
    if status in UNPAID or status >= 500:
        rest = min(_retry_after(why), LONGEST_SECONDS)
        if rest:
            _shut_until[model] = max(_shut_until.get(model, 0.0), time.monotonic() + rest)
        if rest > PATIENCE_SECONDS:
            return NotNow(f"{model} answered {status} and asked for {rest:.0f} s of rest", rest)
        return Unavailable(f"{model} answered {status}: {why.message}")
    remedy = REMEDIES.get(status, "Its message says what is wrong.")
    return BadInput(f"{model} refused the request with {status} ({why.message}). {remedy} Request {why.request_id}.")


def _retry_after(why: anthropic.APIStatusError) -> float:
    """Seconds that the server asks for, 0 if it does not say or says it in a way nobody knows."""
    headers = why.response.headers
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        with contextlib.suppress(ValueError):
            return max(float(headers.get(name, "")) / unit, 0.0)
    return 0.0
