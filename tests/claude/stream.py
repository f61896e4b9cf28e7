"""A message as the events in which it is streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.claude.errors import Body

PIECE = 24  # characters in a delta


def events(message: Body) -> list[bytes]:
    usage = message["usage"]
    begun = message | {"content": [], "stop_reason": None, "stop_sequence": None, "stop_details": None}
    begun["usage"] = usage | {"output_tokens": min(1, usage["output_tokens"])}
    told = [event("message_start", message=begun), event("ping")]
    for index, block in enumerate(message["content"]):
        told += _block(index, block)
    end = {name: message[name] for name in ("stop_reason", "stop_sequence", "stop_details")}
    counted = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    told.append(event("message_delta", delta=end, usage={name: usage[name] for name in counted}))
    return [*told, event("message_stop")]


def event(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields}, ensure_ascii=False)}\n\n".encode()


def _block(index: int, block: Body) -> Iterator[bytes]:
    text = block["type"] == "text"
    begun: Body = {"text": ""} if text else {"input": {}}
    yield event("content_block_start", index=index, content_block=block | begun)
    whole = block["text"] if text else json.dumps(block["input"], ensure_ascii=False)
    for place in range(0, len(whole), PIECE):
        piece = whole[place : place + PIECE]
        delta = {"type": "text_delta", "text": piece} if text else {"type": "input_json_delta", "partial_json": piece}
        yield event("content_block_delta", index=index, delta=delta)
    yield event("content_block_stop", index=index)
