"""Messages, whole and spoilt, from what a brain says."""

from __future__ import annotations

import json
import uuid
from typing import NamedTuple

from tests.claude.brain import Call, Say
from tests.claude.errors import Body
from tests.claude.prompt import CHARACTERS_PER_TOKEN, canonical, tokens

CUTS = {
    "max_tokens": "max_tokens",
    "context": "model_context_window_exceeded",
    "pause_turn": "pause_turn",
}
SPOILS = {*CUTS, "refusal", "empty", "invalid_json", "wrong_shape"}


class Answer(NamedTuple):
    content: list[Body]
    stop_reason: str
    stop_sequence: str | None = None
    stop_details: Body | None = None


def new_id(kind: str) -> str:
    return f"{kind}_01{uuid.uuid4().hex[:22]}"


def output_tokens(content: list[Body]) -> int:
    return sum(_tokens(block) for block in content)


def _tokens(block: Body) -> int:
    return tokens(block["text"] if block["type"] == "text" else block["name"] + canonical(block["input"]))


def compose(says: list[Say], body: Body) -> Answer:
    """Text in front of tool calls, ended by whatever the request lets end it first."""
    content: list[Body] = []
    calls = 0
    for say in says:
        if isinstance(say, Call):
            calls += 1
            if calls == 1 or not (body.get("tool_choice") or {}).get("disable_parallel_tool_use"):
                content.append({"type": "tool_use", "id": new_id("toolu"), "name": say.tool, "input": say.input})
        else:
            content.append({"type": "text", "text": _text(say), "citations": None})
    answer = _stopped(Answer(content, "tool_use" if calls else "end_turn"), body.get("stop_sequences") or [])
    if output_tokens(answer.content) > body["max_tokens"]:
        return cut(answer, body["max_tokens"], "max_tokens")
    return answer


def _text(say: Say) -> str:
    if isinstance(say, str):
        return say
    assert isinstance(say, dict)
    return json.dumps(say["json"] if set(say) == {"json"} else say, ensure_ascii=False)


def _stopped(answer: Answer, sequences: list[str]) -> Answer:
    for number, block in enumerate(answer.content):
        found = [(block.get("text", "").index(one), one) for one in sequences if one in block.get("text", "")]
        if found:
            place, sequence = min(found)
            stopped = [*answer.content[:number], block | {"text": block["text"][:place]}]
            return Answer([one for one in stopped if one.get("text") != ""], "stop_sequence", sequence)
    return answer


def cut(answer: Answer, most: int, why: str) -> Answer:
    """The first `most` tokens; a tool call that does not fit is left without its input."""
    kept: list[Body] = []
    for block in answer.content:
        if _tokens(block) > most:
            if most > 0:
                short = {"text": block["text"][: most * CHARACTERS_PER_TOKEN]} if "text" in block else {"input": {}}
                kept.append(block | short)
            break
        kept.append(block)
        most -= _tokens(block)
    return Answer(kept, why)


def spoil(answer: Answer, how: str) -> Answer:
    if how in CUTS:
        return cut(answer, max(1, output_tokens(answer.content) // 2), CUTS[how])
    if how == "refusal":
        details = {"type": "refusal", "category": "general_harms", "explanation": None}
        return Answer([], "refusal", stop_details=details)
    if how == "empty":
        return Answer([], "end_turn")
    said = "Sure! Here it is: " + "".join(block.get("text", "") for block in answer.content)
    text = said if how == "invalid_json" else '{"unexpected": true}'
    return Answer([{"type": "text", "text": text, "citations": None}], "end_turn")


def message(answer: Answer, model: str, usage: Body) -> Body:
    spent = output_tokens(answer.content)
    return {
        "id": new_id("msg"),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": answer.content,
        "stop_reason": answer.stop_reason,
        "stop_sequence": answer.stop_sequence,
        "stop_details": answer.stop_details,
        "usage": usage | {"output_tokens": spent, "inference_geo": "global"},
    }
