"""What the API refuses about a request before any model sees it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tests.claude.errors import Body, Refused
from tests.claude.prompt import blocks, parts
from tests.claude.schema import refuse_unsupported

MODELS = {
    "claude-fable-5-2",
    "claude-mythos-5-2",
    "claude-haiku-5-5",
    "claude-sonnet-5-5",
    "claude-opus-5-5",
    "claude-fable-5-1",
    "claude-mythos-5-1",
    "claude-sonnet-5",
    "claude-fable-5",
    "claude-mythos-5",
    "claude-opus-5",
    "claude-opus-4-8",
    "claude-opus-4-7",
    "claude-opus-4-6",
    "claude-sonnet-4-6",
    "claude-haiku-4-5",
    "claude-haiku-4-5-20251001",
    "claude-opus-4-5",
    "claude-opus-4-5-20251101",
    "claude-sonnet-4-5",
    "claude-sonnet-4-5-20250929",
}
PREFILLED = re.compile(r"claude-\w+-4-5")  # later ones do not continue what the assistant began
SAMPLED = re.compile(r"claude-\w+-4-[56]")  # later ones take no temperature
FIELDS = set(
    "model max_tokens messages cache_control container diagnostics inference_geo metadata output_config service_tier"
    " speed stop_sequences stream system thinking tool_choice tools user_profile_id".split()
)
MOST_TOKENS = 128_000
MOST_MESSAGES = 100_000
MOST_BREAKPOINTS = 4
EFFORTS = ("low", "medium", "high", "xhigh", "max")
BLOCKS = {
    "user": ("text", "image", "document", "tool_result", "search_result", "container_upload"),
    "assistant": ("text", "tool_use", "thinking", "redacted_thinking", "server_tool_use"),
    "system": ("text",),
}


def _must(condition: object, message: str, status: int = 400) -> None:
    if not condition:
        raise Refused(status, message)


def check(body: Body, models: Iterable[str] = (), counting: bool = False) -> None:
    """Raise Refused as the API would; `models` are known besides those of the SDK."""
    for name in ("model", "messages") if counting else ("model", "max_tokens", "messages"):
        _must(body.get(name) is not None, f"{name}: Field required")
    model = body["model"]
    _must(isinstance(model, str) and model, "model: Input should be a valid string")
    sampling = {"temperature", "top_p", "top_k"} if SAMPLED.match(model) else set()
    for name in sorted(set(body) - FIELDS - sampling):
        raise Refused(400, f"{name}: Extra inputs are not permitted")
    if not counting:
        _limit(body["max_tokens"], model)
    system = body.get("system")
    _must(system is None or isinstance(system, str | list), "system: Input should be a valid string or list")
    for number, block in enumerate(blocks(system) if system else []):
        _must(block.get("type") == "text", f"system.{number}: Input tag must be 'text'")
        _must(block.get("text"), "system: text content blocks must be non-empty")
    _tools(body)
    _messages(body["messages"], bool(PREFILLED.match(model)))
    _output(body.get("output_config") or {})
    _breakpoints(body)
    _must(model in MODELS or model in models, f"model: {model}", 404)


def _limit(most: Any, model: str) -> None:
    _must(type(most) is int, "max_tokens: Input should be a valid integer")
    _must(most >= 0, "max_tokens: Input should be greater than or equal to 0")
    _must(
        most <= MOST_TOKENS,
        f"max_tokens: {most} > {MOST_TOKENS}, which is the maximum allowed number of output tokens for {model}",
    )


def _tools(body: Body) -> None:
    tools, choice = body.get("tools") or [], body.get("tool_choice")
    names = [tool.get("name") for tool in tools]
    for number, tool in enumerate(tools):
        if tool.get("type", "custom") != "custom":
            continue  # the API's own tools have fields of their own
        good = re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", tool.get("name") or "")
        _must(good, f"tools.{number}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
        shape = tool.get("input_schema")
        _must(isinstance(shape, dict), f"tools.{number}.custom.input_schema: Field required")
        _must(shape.get("type") == "object", f"tools.{number}.custom.input_schema.type: Input should be 'object'")
        if tool.get("strict"):
            refuse_unsupported(shape, f"tools.{number}.custom.input_schema")
    _must(len(set(names)) == len(names), "tools: Tool names must be unique.")
    if choice is None:
        return
    _must(choice.get("type") in ("auto", "any", "tool", "none"), "tool_choice: Input tag does not match")
    _must(tools, "tool_choice may only be specified while providing tools")
    if choice["type"] == "tool":
        _must(choice.get("name") in names, f"Tool '{choice.get('name')}' not found in provided tools")


def _messages(messages: Any, prefilled: bool) -> None:
    _must(isinstance(messages, list), "messages: Input should be a valid list")
    _must(messages, "messages: at least one message is required")
    _must(len(messages) <= MOST_MESSAGES, f"messages: List should have at most {MOST_MESSAGES} items")
    for number, message in enumerate(messages):
        _message(f"messages.{number}", message, number == len(messages) - 1)
    _must(messages[0]["role"] == "user", 'messages: first message must use the "user" role')
    _answers(_joined(messages))
    if messages[-1]["role"] == "assistant":
        instead = "The conversation must end with a user message."
        _must(prefilled, f"This model does not support assistant message prefill. {instead}")
        last = blocks(messages[-1]["content"])
        said = last[-1].get("text", "") if last else ""
        _must(said == said.rstrip(), "messages: final assistant content cannot end with trailing whitespace")


def _message(path: str, message: Any, last: bool) -> None:
    _must(isinstance(message, dict), f"{path}: Input should be a valid dictionary")
    role, content = message.get("role"), message.get("content")
    _must(role in BLOCKS, f"{path}.role: Input should be 'user' or 'assistant'")
    for name in sorted(set(message) - {"role", "content"}):
        raise Refused(400, f"{path}.{name}: Extra inputs are not permitted")
    _must("content" in message, f"{path}.content: Field required")
    _must(isinstance(content, str | list), f"{path}.content: Input should be a valid string or list")
    exempt = "except for the optional final assistant message"
    _must(content or (last and role == "assistant"), f"{path}: all messages must have non-empty content {exempt}")
    for number, block in enumerate(content if isinstance(content, list) else []):
        kind = block.get("type") if isinstance(block, dict) else None
        expected = ", ".join(f"'{one}'" for one in BLOCKS[role])
        known = kind in BLOCKS[role] or str(kind).endswith(("_tool_use", "_tool_result"))
        _must(known, f"{path}.content.{number}: Input tag '{kind}' does not match any of the expected tags: {expected}")
        if kind == "text":
            _must(isinstance(block.get("text"), str), f"{path}.content.{number}.text: Field required")
            _must(block["text"], "messages: text content blocks must be non-empty")
        for name in {"tool_use": ("id", "name", "input"), "tool_result": ("tool_use_id",)}.get(str(kind), ()):
            _must(block.get(name) is not None, f"{path}.content.{number}.{kind}.{name}: Field required")


def _joined(messages: list[Body]) -> list[tuple[int, str, list[Body]]]:
    """Neighbours with one role are one turn: they need not alternate."""
    turns: list[tuple[int, str, list[Body]]] = []
    for number, message in enumerate(messages):
        if message["role"] == "system":
            continue
        if turns and turns[-1][1] == message["role"]:
            turns[-1][2].extend(blocks(message["content"]))
        else:
            turns.append((number, message["role"], blocks(message["content"])))
    return turns


def _answers(turns: list[tuple[int, str, list[Body]]]) -> None:
    """Every tool_use is answered at the beginning of the next turn, and nothing else is."""
    seen: set[str] = set()
    open_: list[str] = []
    for index, (number, role, content) in enumerate(turns):
        answered = [block["tool_use_id"] for block in content if block.get("type") == "tool_result"]
        if role == "user":
            for position, block in enumerate(content):
                if block.get("type") == "tool_result":
                    wrong = f"unexpected `tool_use_id` found in `tool_result` blocks: {block['tool_use_id']}"
                    has = "Each `tool_result` block must have a corresponding `tool_use` block in the previous message."
                    _must(block["tool_use_id"] in open_, f"messages.{number}.content.{position}: {wrong}. {has}")
            _must(len(set(answered)) == len(answered), "each tool_use must have a single result")
            open_ = _unanswered(turns[index - 1][0], open_, content)
            continue
        open_ = [block["id"] for block in content if block.get("type") == "tool_use"]
        _must(len(set(open_)) == len(open_) and not seen & set(open_), "messages: `tool_use` ids must be unique")
        seen |= set(open_)
    if turns[-1][1] == "assistant":
        _unanswered(turns[-1][0], open_, [])


def _unanswered(number: int, open_: list[str], content: list[Body]) -> list[str]:
    first = [block["tool_use_id"] for block in content[: len(open_)] if block.get("type") == "tool_result"]
    missing = [one for one in open_ if one not in first]
    without = f"`tool_use` ids were found without `tool_result` blocks immediately after: {', '.join(missing)}"
    has = "Each `tool_use` block must have a corresponding `tool_result` block in the next message."
    _must(not missing, f"messages.{number}: {without}. {has}")
    return []


def _output(config: Body) -> None:
    for name in sorted(set(config) - {"effort", "format", "task_budget"}):
        raise Refused(400, f"output_config.{name}: Extra inputs are not permitted")
    _must(config.get("effort") in (None, *EFFORTS), f"output_config.effort: Input should be one of {EFFORTS}")
    if shape := config.get("format"):
        _must(shape.get("type") == "json_schema", "output_config.format.type: Input should be 'json_schema'")
        _must(shape.get("schema") is not None, "output_config.format.schema: Field required")
        refuse_unsupported(shape["schema"])


def _breakpoints(body: Body) -> None:
    marks = [part.ttl for part in parts(body) if part.ttl]
    count = f"A maximum of {MOST_BREAKPOINTS} blocks with cache_control may be provided."
    _must(len(marks) <= MOST_BREAKPOINTS, f"{count} Found {len(marks)}.")
    for ttl in marks:
        _must(ttl in ("5m", "1h"), "cache_control.ttl: Input should be '5m' or '1h'")
    order = "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block"
    _must(marks == sorted(marks), f"cache_control: {order}")  # "1h" sorts before "5m"
