"""Requests to the fake through Anthropic's SDK, without the certificates that take longer to read than a test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
from anthropic.types import Message
from pydantic import BaseModel, Field

from tests.claude.running import Claude

MODEL = "claude-haiku-5-5"


class Verdict(BaseModel):
    queue: Literal["refund", "delivery", "other"]
    confidence: float = Field(ge=0, le=1)
    reasons: list[str]
    urgent: bool
    order: int | None


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 500, "messages": [{"role": "user", "content": text}]} | more


def talk(claude: Claude, what: Callable[[AsyncAnthropic], Awaitable[Any]], **how: Any) -> Any:
    async def with_a_client() -> Any:
        http = DefaultAsyncHttpxClient(verify=False, trust_env=False)
        given: dict[str, Any] = {
            "api_key": "sk-test-1234",
            "base_url": claude.url,
            "max_retries": 0,
            "timeout": 20,
        } | how
        async with AsyncAnthropic(http_client=http, **given) as client:
            return await what(client)

    return asyncio.run(with_a_client())


def ask(claude: Claude, body: dict[str, Any], **how: Any) -> Message:
    found: Message = talk(claude, lambda client: client.messages.create(**body), **how)
    return found
