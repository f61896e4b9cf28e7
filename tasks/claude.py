"""Claude over its official SDK: one call, paid for within limits and booked once, whatever becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import anthropic
from anthropic.types import Message
from anthropic.types.messages import MessageBatchIndividualResponse
from prefect.blocks.system import Secret
from pydantic import BaseModel

from tasks.budgets import explain, limits
from tasks.errors import BadInput, BudgetReached, NotNow, Unavailable
from tasks.ledger.calls import Call, Full, Kept, answered, failed, lost, reserve
from tasks.ledger.later import Result
from tasks.pacing import PATIENCE_SECONDS, call_ended, rest, rested, room_made
from tasks.prices import prices
from tasks.records import Usage
from tasks.working import Hand, in_hand

KEY = "ANTHROPIC_API_KEY"
KEY_BLOCK = "anthropic-api-key"
DEFAULT_MODEL = "claude-haiku-5-5"
CALL_SECONDS = 300.0
CONNECT_SECONDS = 10.0
ROOM_SECONDS = 60.0  # while calls under way may turn out cheaper than what was set aside for them
OVERHEAD_TOKENS = 2_000  # what the provider adds for tools and schemas, generously

REMEDIES = {
    400: "Its message says what is wrong with the request; if it names the length, shorten the knowledge or the case.",
    401: f"Put a valid key into {KEY}.",
    402: "The account has no credit.",
    403: "This key may not use that model or endpoint.",
    404: "Check the model's name (the agent's `models`) and ANTHROPIC_BASE_URL.",
    413: "The request is too large: shorten the knowledge or the case.",
}
STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
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


def schema_of(output: type[BaseModel]) -> dict[str, Any]:
    """The schema that makes the provider answer in this shape; what it can not enforce is told in descriptions."""
    return anthropic.transform_schema(output)


# Connections belong to an event loop, and go with it.
_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, anthropic.AsyncAnthropic] = WeakKeyDictionary()


async def client() -> anthropic.AsyncAnthropic:
    """The SDK's client for this event loop; BadInput if there is no key in the environment or the Secret block."""
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        given = bool(os.environ.get(KEY) or os.environ.get("ANTHROPIC_AUTH_TOKEN"))
        key = None if given else await _key_of_block()
        # Retries are Prefect's: the SDK would sleep in this process for as long as a server says.
        timeout = anthropic.Timeout(CALL_SECONDS, connect=CONNECT_SECONDS)
        _clients[loop] = anthropic.AsyncAnthropic(api_key=key, max_retries=0, timeout=timeout)
    return _clients[loop]


async def _key_of_block() -> str:
    try:
        found: Secret[str] = await Secret.aload(KEY_BLOCK)
    except ValueError as why:
        raise BadInput(
            f"There is no key for Claude. Put one into {KEY} or into a Secret block named {KEY_BLOCK!r}, or leave the "
            "agent's `models` empty."
        ) from why
    return str(found.get())


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
    hand.asking.add(key)
    for model in models_for(hand, step):
        try:
            return await _one(hand, step, key, model, max_tokens, request)
        except Unavailable as went:
            why = str(went)  # the next model may be there
    raise Unavailable(why)


async def _one(hand: Hand, step: str, key: str, model: str, max_tokens: int, request: Mapping[str, Any]) -> Reply:
    await rested(model)
    question = worded(max_tokens, request)
    call = call_for(hand, step, key, model, max_tokens, question)
    work, ledger = hand.work, hand.ledger
    given: dict[str, Any] = {"work": work, "call": call, "limits_of": partial(limits, work.agent, work.case.id)}
    until = time.monotonic() + ROOM_SECONDS
    while not isinstance(number := await ledger.write(f"set money aside for {step}", partial(reserve, **given)), int):
        if isinstance(number, Kept):
            return reply_of(number.model, number.reply)
        if isinstance(number, Full):
            if number.seconds > PATIENCE_SECONDS or time.monotonic() > until:
                raise NotNow(f"{model} has no room in this minute (HOLDFAST_RATES, prices.toml)", number.seconds)
            await room_made(number.seconds, 1.3 * number.seconds)
            continue
        if not number.soon or time.monotonic() > until:
            wanted = call.usd if number.unit == "usd" else call.tokens
            raise BudgetReached(explain(number, wanted), call.usd, call.tokens)
        await room_made(2, 6)
    try:
        return await _made(hand, number, step, model, question)
    finally:
        await call_ended()


def worded(max_tokens: int, request: Mapping[str, Any]) -> bytes:
    """A request as JSON, but for its model: written once for the price, the digest and the wire, as talks grow long."""
    return json.dumps({"max_tokens": max_tokens, **request}, ensure_ascii=False).encode()


def call_for(
    hand: Hand, step: str, key: str, model: str, max_tokens: int, question: bytes, batch: bool = False
) -> Call:
    """A call and the most that it can cost; BadInput for a model without a price."""
    # A token is at least one byte, so this can not be too low.
    bound = len(question) + OVERHEAD_TOKENS
    usd, tokens = prices().at_most(model, bound, max_tokens, batch), bound + max_tokens
    holder = "" if batch else hand.lease.holder  # a batch goes on when the process that asked for it ends
    own = (hand.skill, hand.version, holder, model)
    asked = "" if batch else hashlib.sha256(question).hexdigest()
    return Call(step, key, *own, usd, tokens, batch, _account(), prices().rate(model), asked)


def digest(*asked: Any) -> str:
    """The same for the same question, and for no other."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


async def _made(hand: Hand, entry: int, step: str, model: str, question: bytes) -> Reply:
    """Make the call and book what became of it."""
    ledger, body = hand.ledger, b'{"model": %b, %b' % (json.dumps(model).encode(), question[1:])
    try:
        # Not `messages.create`: it copies every block of the conversation at every turn, 25 ms after 200 turns.
        message: Message = await (await client()).post("/v1/messages", cast_to=Message, content=body)
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


def _account() -> str:
    """Names a key without telling it: no limit is shared by two of them."""
    key = os.environ.get(KEY) or os.environ.get("ANTHROPIC_AUTH_TOKEN") or ""
    return hashlib.sha256(key.encode()).hexdigest()[:12]


async def _booked(hand: Hand, number: int, model: str, message: Message, step: str) -> Reply:
    used, kept = _used(message), _kept(message)
    usd, saved = prices().cost(model, used), prices().saved_by_cache(model, used)
    book = partial(answered, number=number, response=message.id, used=used, usd=usd, saved_by_cache=saved, reply=kept)
    await hand.ledger.write(f"book the call for {step}", book)
    return reply_of(model, kept)


def _kept(message: Message) -> str:
    content = [block.model_dump(mode="json", exclude_none=True) for block in message.content]
    return json.dumps({"content": content, "stop": message.stop_reason or "", "used": _used(message).model_dump()})


def reply_of(model: str, kept: str) -> Reply:
    """An answer as the ledger keeps it."""
    told = json.loads(kept)
    return Reply(model, told["content"], told["stop"], Usage.model_validate(told["used"]))


def result_of(line: MessageBatchIndividualResponse) -> Result:
    """One line of a batch's results, as the ledger books it."""
    name, found = line.custom_id, line.result
    if found.type == "succeeded":
        return Result(name, found.message.id, _kept(found.message), _used(found.message), 200, "")
    if found.type == "errored":
        told = found.error.error
        return Result(name, "", "", Usage(), STATUSES.get(told.type, 500), f"{told.type}: {told.message}")
    return Result(name, "", "", Usage(), 0, f"it is {found.type}")


@contextlib.contextmanager
def told(whom: str) -> Iterator[None]:
    """Turn the SDK's errors into ours: Unavailable and NotNow, or BadInput with the remedy."""
    try:
        yield
    except anthropic.APIStatusError as why:
        raise _what_to_do(whom, why) from why
    except anthropic.APIConnectionError as why:
        raise Unavailable(f"{whom} did not answer ({type(why).__name__}: {why})") from why


def status_of(why: Exception) -> int:
    """The HTTP status behind an error that `told` made; 0 if there was no answer."""
    return int(getattr(why.__cause__, "status_code", 0))


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


def _what_to_do(model: str, why: anthropic.APIStatusError) -> Exception:
    status = why.status_code
    if status in UNPAID or status >= 500:
        seconds = rest(model, _retry_after(why))
        if seconds > PATIENCE_SECONDS:
            return NotNow(f"{model} answered {status} and asked for {seconds:.0f} s of rest", seconds)
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
