"""What a request's prompt is: its parts in the order in which they are cached, their tokens, its hash and its words."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, NamedTuple

from tests.claude.errors import Body

HASHED = ("model", "system", "tools", "messages", "output_config")
CHARACTERS_PER_TOKEN = 4  # rounded up for each part: the rule by which everything here is counted
TOKENS_OF_AN_IMAGE = 1_600


class Part(NamedTuple):
    text: str
    tokens: int
    ttl: str | None  # of the cache breakpoint at its end


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def request_hash(body: Body) -> str:
    """Of what a model is asked, or of what a batch consists."""
    told = body["requests"] if "requests" in body else {name: body.get(name) for name in HASHED}
    return hashlib.sha256(canonical(told).encode()).hexdigest()


def tokens(text: str) -> int:
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def blocks(content: Any) -> list[Body]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content or [])


def parts(body: Body) -> list[Part]:
    """Tools, then what changes their meaning, then system, then messages: a change spoils the cache of all after it."""
    found = [_part("tool", tool) for tool in body.get("tools") or []]
    if shape := (body.get("output_config") or {}).get("format"):
        found.append(_part("format", shape))
    found += [_part("system", block) for block in blocks(body.get("system"))]
    if choice := body.get("tool_choice"):
        found.append(Part(f"choice {canonical(choice)}", 0, None))
    for message in body["messages"]:
        found += [_part(message["role"], block) for block in blocks(message["content"])]
    if (marked := body.get("cache_control")) and found and found[-1].ttl is None:
        found[-1] = found[-1]._replace(ttl=marked.get("ttl", "5m"))
    return found


def _part(role: str, block: Body) -> Part:
    marked = block.get("cache_control")
    bare = {name: value for name, value in block.items() if name != "cache_control"}
    said = bare["text"] if bare.get("type") == "text" else canonical(bare)
    counted = TOKENS_OF_AN_IMAGE if bare.get("type") == "image" else tokens(said)
    return Part(f"{role} {canonical(bare)}", counted, marked.get("ttl", "5m") if marked else None)


def input_tokens(body: Body) -> int:
    return sum(part.tokens for part in parts(body))


def asked(body: Body) -> tuple[str, int]:
    """The last text of the user's, and how many times the assistant has spoken since: where a conversation stands."""
    spoken = 0
    for message in reversed(body["messages"]):
        if message["role"] == "assistant":
            spoken += 1
        elif message["role"] == "user" and (said := _texts(message["content"])):
            return said, spoken
    return "", spoken


def words(body: Body) -> str:
    """Every text of system and messages, tool results too."""
    contents = [body.get("system"), *(message["content"] for message in body["messages"])]
    return "\n".join(_texts(one, deep=True) for one in contents)


def _texts(content: Any, deep: bool = False) -> str:
    found = []
    for block in blocks(content):
        if block.get("type") == "text":
            found.append(block["text"])
        elif deep and block.get("type") == "tool_result":
            found.append(_texts(block.get("content"), deep))
    return "\n".join(found)
