"""The faults of the fake of Claude, as its clients meet them and as its log tells them."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import Message
from pydantic import BaseModel

from tests.claude.asking import Verdict, ask, said, talk
from tests.claude.log import paid_twice
from tests.claude.running import Claude, claude_server_in
from tests.servers import wait_for


@pytest.fixture(scope="module")
def claude(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Claude]:
    with claude_server_in(tmp_path_factory.mktemp("claude")) as claude:
        yield claude


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("400", anthropic.BadRequestError),
        ("401", anthropic.AuthenticationError),
        ("403", anthropic.PermissionDeniedError),
        ("404", anthropic.NotFoundError),
        ("413", anthropic.APIStatusError),
        ("429", anthropic.RateLimitError),
        ("500", anthropic.InternalServerError),
        ("529", anthropic.OverloadedError),
        ("html", anthropic.InternalServerError),
        ("cut_before", anthropic.APIConnectionError),
        ("cut_after", anthropic.APIConnectionError),
        ("hang", anthropic.APITimeoutError),
    ],
)
def test_no_fault_is_another_error_than_the_sdk_knows(claude: Claude, fault: str, error: type[Exception]) -> None:
    text = f"fault {fault}"
    claude.fail(fault, match=text, retry_after=2.0)
    with pytest.raises(error) as caught:
        ask(claude, said(text), timeout=0.3 if fault == "hang" else 20)
    if isinstance(caught.value, anthropic.APIStatusError):
        assert fault == "html" or str(caught.value.request_id).startswith("req_")
        assert caught.value.response.headers.get("retry-after") == (None if fault == "html" else "2")
    (entry,) = wait_for(lambda: [one for one in claude.entries() if one.label == text], 20, "the entry")
    assert (entry.billed, entry.answered) == (fault == "cut_after", False)
    assert ask(claude, said(text)).stop_reason == "end_turn"


@pytest.mark.parametrize(
    ("fault", "stop"),
    [
        ("refusal", "refusal"),
        ("max_tokens", "max_tokens"),
        ("context", "model_context_window_exceeded"),
        ("empty", "end_turn"),
        ("invalid_json", "end_turn"),
        ("wrong_shape", "end_turn"),
    ],
)
def test_no_spoilt_answer_parses_or_is_free(claude: Claude, fault: str, stop: str) -> None:
    text = f"spoilt {fault}"
    claude.fail(fault, match=text)
    body = said(text, output_config={"format": {"type": "json_schema", "schema": _schema(Verdict)}})
    message = ask(claude, body)
    assert message.stop_reason == stop
    if message.content:
        with pytest.raises(ValueError):
            Verdict.model_validate_json(message.content[0].text)
    assert [one.billed for one in claude.entries() if one.label == text] == [True]


def _schema(of: type[BaseModel]) -> dict[str, Any]:
    found: dict[str, Any] = anthropic.transform_schema(of)
    return found


def test_a_stream_that_breaks_does_not_look_finished(claude: Claude) -> None:
    claude.fail("stream_error", match="broken stream")
    claude.fail("cut_after", match="broken stream")

    async def streamed(client: AsyncAnthropic) -> None:
        async with client.messages.stream(**said("broken stream")) as stream:
            await stream.get_final_message()

    for error in ("APIStatusError", "RemoteProtocolError"):  # the SDK lets its transport's error through
        with pytest.raises(Exception) as caught:
            talk(claude, streamed)
        assert type(caught.value).__name__ == error
    entries = [one for one in claude.entries() if one.label == "broken stream"]
    assert [(one.billed, one.answered) for one in entries] == [(True, False)] * 2


def test_fifty_at_once_are_neither_lost_nor_mixed_up(claude: Claude) -> None:
    claude.control(answers=[{"match": f"number {n:02}", "turns": [f"{n:02}"]} for n in range(50)])

    async def all_at_once(client: AsyncAnthropic) -> list[Message]:
        return await asyncio.gather(*(client.messages.create(**said(f"number {n:02}")) for n in range(50)))

    assert [one.content[0].text for one in talk(claude, all_at_once)] == [f"{n:02}" for n in range(50)]
    labels = [one.label for one in claude.entries() if one.label.startswith("number")]
    assert sorted(labels) == [f"number {n:02}" for n in range(50)]


def test_a_killed_client_neither_ends_the_server_nor_hides_what_it_paid(claude: Claude) -> None:
    text = "killed on the way"
    claude.fail("held", match=text)
    client = multiprocessing.get_context("fork").Process(target=ask, args=(claude, said(text)))
    client.start()
    wait_for(lambda: text in claude.state()["in_flight"], 20, "the call")
    client.kill()
    client.join()
    claude.control(release=True)
    ask(claude, said(text))
    found = [one for one in claude.entries() if one.label == text]
    assert [one.answered for one in found] == [False, True]
    assert paid_twice(found) == [found[0].hash] and paid_twice(found, answered=True) == []


def test_a_server_that_was_killed_comes_back_with_its_log(tmp_path: Path) -> None:
    script = {"answers": [{"match": "capital", "turns": ["Oslo."]}], "faults": [{"kind": "429", "skip": 1}]}
    with claude_server_in(tmp_path, script) as claude:
        body = said("The capital of Norway?")
        assert ask(claude, body).content[0].text == "Oslo."
        claude.stop()
        with pytest.raises(anthropic.APIConnectionError):
            ask(claude, body)
        claude.start()
        ask(claude, body)
        with pytest.raises(anthropic.RateLimitError):
            ask(claude, body)
        assert [one.status for one in claude.entries()] == [200, 200, 429]
        assert all(json.loads(line)["key"] == "1234" for line in claude.log.read_text().splitlines())
