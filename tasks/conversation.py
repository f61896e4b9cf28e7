"""converse(): a model works with tools until it concludes; each of its turns and each tool call is finished once."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

from prefect import task
from prefect.results import ResultRecord  # type: ignore[attr-defined]
from pydantic import BaseModel, Field, ValidationError

from tasks.errors import BadInput, Unusable
from tasks.knowledge import Knowledge
from tasks.model import PAID, show, system
from tasks.records import Case, Private, Record, Usage
from tasks.redaction import redact
from tasks.store import ONCE_PER_CASE, step_in_hand
from tasks.tools import Tool, Toolbox, Used
from tasks.working import in_hand

M = TypeVar("M", bound=BaseModel)
CONCLUDE = "conclude"
LEFT_TO_WARN = 2  # turns before the last at which the model is told to come to an end
TRIM_ABOVE = 60_000  # characters of tool results that were not trimmed yet
KEPT_WHOLE = 5  # of the newest tool results
TRIMMED_TO = 300
NAMES_OF_CLASSES = ("__class__", "__exc_type__")


class Turn(Record):
    """One answer of the model, as it is kept: only what it added to the conversation."""

    model: str
    content: list[dict[str, Any]]
    stop: str
    used: Usage
    seconds: float


class Limits(Record):
    """How long a conversation may be; the model is warned before, and told to conclude at the end."""

    turns: int = Field(default=30, ge=1)
    tokens: int = Field(default=500_000, ge=1, description="Read and written by the model in all turns.")
    seconds: float = Field(default=600, gt=0, description="Of model turns and tool calls, without waits and restarts.")
    answer_tokens: int = Field(default=2_048, ge=64, description="Of one turn.")


class _Asked(NamedTuple):
    """What a step can not be given as an input: it would be hashed anew at every turn."""

    request: dict[str, Any]
    tools: Toolbox
    answer_tokens: int
    prompt: str
    knowledge: Knowledge | None


_ASKED: ContextVar[_Asked] = ContextVar("ASKED")


def told() -> tuple[str, Knowledge | None]:
    """What the model of the conversation in hand was told and knows, for tools that check what it says."""
    asked = _ASKED.get()
    return asked.prompt, asked.knowledge


def heard() -> list[str]:
    """What tools told in the conversations of the case in hand, for skills that check what a conclusion cites."""
    hand, step = in_hand("see what tools told"), f"/{use.fn.__module__}.{use.fn.__qualname__}/"
    mine = [one for key, one in hand.steps.items() if key.startswith(f"{hand.skill}/{hand.version}/") and step in key]
    told: list[Used] = [ResultRecord.deserialize(one).result for one in mine]
    return [one.text for one in told]


@task(cache_policy=ONCE_PER_CASE, task_run_name="turn {number} of case {case.id}", **PAID)
async def turn(case: Case, number: int, so_far: str) -> Turn:
    """Ask the model for its next turn; `so_far` is the digest of all that was said before."""
    from tasks import claude

    asked, began = _ASKED.get(), time.monotonic()
    step, key = step_in_hand("ask a model")
    reply = await claude.respond(step, key, asked.answer_tokens, asked.request)
    if reply.stop == "refusal":
        raise Unusable("refused", f"{reply.model} would not go on")
    seconds = round(time.monotonic() - began, 3)
    content = [_inert(one) for one in reply.content]
    return Turn(model=reply.model, content=content, stop=reply.stop, used=reply.used, seconds=seconds)


def _inert(value: Any) -> Any:
    """A model's own data without the names by which Prefect would import what they say when it reads the turn back."""
    if isinstance(value, dict):
        return {name.strip("_") if name in NAMES_OF_CLASSES else name: _inert(one) for name, one in value.items()}
    return [_inert(one) for one in value] if isinstance(value, list) else value


@task(cache_policy=ONCE_PER_CASE, task_run_name="{name} in turn {number} of case {case.id}")
async def use(case: Case, number: int, place: int, name: str, given: dict[str, Any]) -> Used:
    """Call a tool once; the same call in another turn is another call."""
    began = time.monotonic()
    used = await _ASKED.get().tools.use(name, given)
    return used.model_copy(update={"seconds": round(time.monotonic() - began, 3)})


class _Talk:
    """A conversation as far as it has come; rebuilt from its finished steps after a restart.

    The digest is of what was said, the messages leave out what is private: whoever changes what counts as private
    has no finished turn to pay again.
    """

    def __init__(self, about: Mapping[str, object], hidden: Collection[Private]) -> None:
        self.messages: list[dict[str, Any]] = [{"role": "user", "content": show(about, hidden)}]
        self.digest = hashlib.sha256(show(about, ()).encode()).hexdigest()
        self._hidden = hidden
        self.tokens, self.seconds = 0, 0.0
        self._results: list[dict[str, Any]] = []
        self._untrimmed = 0

    def add(self, role: str, content: list[dict[str, Any]], shown: list[dict[str, Any]] | None = None) -> None:
        # Chained, so that the cost of a turn does not grow with the number of turns before it.
        said = json.dumps([role, content], sort_keys=True)
        self.digest = hashlib.sha256(f"{self.digest}{said}".encode()).hexdigest()
        self.messages.append({"role": role, "content": content if shown is None else shown})

    def results(self, content: list[dict[str, Any]]) -> None:
        """Add what tools said. Once they are long together, all but the newest are cut, for good and in one go.

        In one go, because each cut makes the provider read everything after it anew.
        """
        shown = [
            {**one, "content": redact(one["content"], self._hidden)} if one["type"] == "tool_result" else one
            for one in content
        ]
        self.add("user", content, shown)
        fresh = [one for one in shown if one["type"] == "tool_result"]
        self._results += fresh
        self._untrimmed += sum(len(one["content"]) for one in fresh)
        if self._untrimmed > TRIM_ABOVE:
            for one in self._results[:-KEPT_WHOLE]:
                if len(one["content"]) > TRIMMED_TO:
                    one["content"] = (
                        f"{one['content'][:TRIMMED_TO]} [trimmed: call the tool again if you need the rest]"
                    )
            self._results = self._results[-KEPT_WHOLE:]
            self._untrimmed = sum(len(one["content"]) for one in self._results)


async def converse(
    output: type[M],
    prompt: str,
    *,
    case: Case,
    tools: Sequence[Tool],
    knowledge: Knowledge | None = None,
    limits: Limits | None = None,
    **about: object,
) -> M:
    """Let Claude work on a case with tools until it calls `conclude` with an `output`.

    Call it in the function given to each(), not in a step: its turns and tool calls are steps. Raises Unusable when
    the limits are reached without a conclusion, or the model refuses.
    """
    limits = limits or Limits()
    box = Toolbox(tools)
    if CONCLUDE in {one["name"] for one in box.shown()}:
        raise BadInput(f"No tool may be called {CONCLUDE}: that is how the model ends the conversation.")
    conclude = {
        "name": CONCLUDE,
        "description": f"End the work with its result. {output.__doc__ or ''}".strip(),
        "input_schema": output.model_json_schema(),
    }
    talk = _Talk({"case": case, **about}, in_hand("ask a model").work.agent.redact)
    shown = [*box.shown(), conclude]
    for number in range(1, limits.turns + 1):
        last = number == limits.turns or talk.tokens > limits.tokens or talk.seconds > limits.seconds
        choice = {"type": "tool", "name": CONCLUDE} if last else {"type": "auto"}
        request = {"system": system(prompt, knowledge), "tools": shown, "tool_choice": choice}
        request |= {"messages": _with_cache(talk.messages)}
        _ASKED.set(_Asked(request, box, limits.answer_tokens, prompt, knowledge))
        said = await turn(case, number, talk.digest)
        talk.add("assistant", said.content or [{"type": "text", "text": "(nothing)"}])
        talk.tokens += said.used.prompt + said.used.output_tokens
        talk.seconds += said.seconds
        answers: list[dict[str, Any]] = []
        for place, block in enumerate(one for one in said.content if one.get("type") == "tool_use"):
            if block["name"] == CONCLUDE:
                try:
                    return output.model_validate(block["input"])
                except ValidationError as why:
                    used = Used(text=f"That does not fit: {why}"[:1_000], failed=True)
            else:
                used = await use(case, number, place, block["name"], block["input"])
                talk.seconds += used.seconds
            answers.append(
                {"type": "tool_result", "tool_use_id": block["id"], "content": used.text, "is_error": used.failed}
            )
        if last:
            break
        talk.results([*answers, *_notes(answers, said, number, limits, talk)])
    raise Unusable(
        "missing", f"there was no conclusion within {limits.turns} turns, {limits.tokens} tokens and the time"
    )


def _notes(answers: list[dict[str, Any]], said: Turn, number: int, limits: Limits, talk: _Talk) -> list[dict[str, Any]]:
    """What the model is told beside the results: made of what is kept, so that a replay says the same."""
    notes = []
    if said.stop == "max_tokens":
        notes.append(f"Your turn was cut at {limits.answer_tokens} tokens; say it shorter.")
    elif not answers:
        notes.append(f"Nobody reads plain text here: use a tool, or call {CONCLUDE}.")
    left = limits.turns - number
    share = max(talk.tokens / limits.tokens, talk.seconds / limits.seconds)
    if left <= LEFT_TO_WARN or share > 0.8:
        notes.append(f"{left} turn(s) are left and {100 * (1 - min(share, 1)):.0f} % of tokens or time: conclude soon.")
    return [{"type": "text", "text": one} for one in notes]


def _with_cache(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mark the newest message, so that the next turn reads everything up to it from the provider's cache."""
    newest = messages[-1]
    content = newest["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    blocks[-1] = {**blocks[-1], "cache_control": {"type": "ephemeral"}}
    return [*messages[:-1], {**newest, "content": blocks}]
