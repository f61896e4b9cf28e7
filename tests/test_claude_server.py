"""The fake of Claude judged by Anthropic's own SDK, so that a test that passes against it means something."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import Message

from tests.claude.asking import MODEL, Verdict, ask, said, talk
from tests.claude.running import Claude, claude_server_in
from tests.servers import wait_for

WEATHER = {
    "name": "weather",
    "description": "The weather of a town.",
    "input_schema": {
        "type": "object",
        "properties": {"town": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["town", "days"],
    },
}


@pytest.fixture(scope="module")
def claude(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Claude]:
    with claude_server_in(tmp_path_factory.mktemp("claude")) as claude:
        yield claude


def post(claude: Claude, body: dict[str, Any], headers: dict[str, str] | None = None) -> httpx.Response:
    given = {"x-api-key": "sk-test-1234", "anthropic-version": "2026-10-21"} if headers is None else headers
    return httpx.post(f"{claude.url}/v1/messages", json=body, headers=given, trust_env=False)


@pytest.mark.parametrize(
    "body",
    [
        said("text"),
        said("tool", tools=[WEATHER], tool_choice={"type": "any"}),
        said("nothing", max_tokens=0),
        said("cut", max_tokens=1),
        said("stopped", stop_sequences=["see"]),
    ],
    ids=lambda body: body["messages"][0]["content"],
)
def test_no_answer_differs_from_the_types_of_the_sdk(claude: Claude, body: dict[str, Any]) -> None:
    answer = post(claude, body)
    message = Message.model_validate_json(answer.text)
    assert answer.headers["request-id"].startswith("req_") and message.model == MODEL
    expected = {"text": "end_turn", "tool": "tool_use", "stopped": "stop_sequence"}
    assert message.stop_reason == expected.get(body["messages"][0]["content"], "max_tokens")


def test_a_structured_answer_is_never_invalid_and_never_another(claude: Claude) -> None:
    async def parse(client: AsyncAnthropic) -> list[Any]:
        asked = [client.messages.parse(**said(f"judge {n % 10}"), output_format=Verdict) for n in range(20)]
        return [one.parsed_output for one in await asyncio.gather(*asked)]

    found = talk(claude, parse)
    assert all(isinstance(one, Verdict) for one in found)
    assert found[:10] == found[10:] and len({one.model_dump_json() for one in found}) == 10


def test_a_tool_loop_does_not_lose_its_place(claude: Claude) -> None:
    calls = [{"tool": "weather", "input": {"town": town, "days": 2}} for town in ("Oslo", "Bonn")]
    claude.control(answers=[{"match": "towns", "turns": [["I will look.", *calls], "Rain in both."]}])

    async def loop(client: AsyncAnthropic) -> tuple[Message, Message]:
        body = said("Which of the towns?", tools=[WEATHER])
        first = await client.messages.create(**body)
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "rain"}
            for block in first.content
            if block.type == "tool_use"
        ]
        body["messages"] += [first.to_param(), {"role": "user", "content": results}]
        return first, await client.messages.create(**body)

    first, second = talk(claude, loop)
    assert [block.type for block in first.content] == ["text", "tool_use", "tool_use"]
    assert first.stop_reason == "tool_use" and second.content[0].text == "Rain in both."


def test_a_stream_does_not_differ_from_the_whole(claude: Claude) -> None:
    body = said("stream", tools=[WEATHER], tool_choice={"type": "tool", "name": "weather"})

    async def streamed(client: AsyncAnthropic) -> tuple[list[str], Message]:
        async with client.messages.stream(**body) as stream:
            kinds = [event.type async for event in stream]
            return kinds, await stream.get_final_message()

    kinds, message = talk(claude, streamed)
    whole = ask(claude, body)
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop" and "input_json" in kinds
    assert message.content[0].input == whole.content[0].input and message.usage == whole.usage


def test_a_count_is_not_another_than_what_is_billed(claude: Claude) -> None:
    body = said("How many tokens are these?", system="Be brief.", tools=[WEATHER])
    counted = talk(claude, lambda c: c.messages.count_tokens(**{n: v for n, v in body.items() if n != "max_tokens"}))
    assert counted.input_tokens == ask(claude, body).usage.input_tokens > 0
    assert [one.billed for one in claude.entries("count") if one.label.startswith("How many")] == [False]


def test_a_prefix_is_not_written_twice_while_it_lives_and_not_read_when_it_is_over(claude: Claude) -> None:
    system = [{"type": "text", "text": "The rules of the house. " * 100, "cache_control": {"type": "ephemeral"}}]
    first = ask(claude, said("one", system=system)).usage
    second = ask(claude, said("another", system=system)).usage
    assert first.cache_creation_input_tokens == second.cache_read_input_tokens == 600
    assert first.cache_read_input_tokens == second.cache_creation_input_tokens == 0
    assert first.cache_creation.ephemeral_5m_input_tokens == 600 and second.input_tokens == 2
    claude.control(advance=301)
    assert ask(claude, said("late", system=system)).usage.cache_creation_input_tokens == 600


def test_requests_that_come_together_do_not_read_what_none_of_them_has_written_yet(claude: Claude) -> None:
    system = [{"type": "text", "text": "The rules for two. " * 100, "cache_control": {"type": "ephemeral"}}]
    claude.fail("held", match="together", times=2)

    async def both(client: AsyncAnthropic) -> list[Message]:
        asked = [asyncio.create_task(client.messages.create(**said("together", system=system))) for _ in "12"]
        await asyncio.to_thread(wait_for, lambda: len(claude.state()["in_flight"]) == 2, 20, "both requests")
        claude.control(release=True)
        return await asyncio.gather(*asked)

    told = [one.usage for one in talk(claude, both)]
    assert [(one.cache_creation_input_tokens, one.cache_read_input_tokens) for one in told] == [(475, 0)] * 2
    assert ask(claude, said("after", system=system)).usage.cache_read_input_tokens == 475


def test_a_growing_conversation_is_not_paid_from_its_beginning(claude: Claude) -> None:
    body = said("A long story. " * 50, cache_control={"type": "ephemeral", "ttl": "1h"})
    first = ask(claude, body)
    body["messages"] += [first.to_param(), {"role": "user", "content": "And then?"}]
    usage = ask(claude, body).usage
    assert usage.cache_read_input_tokens == first.usage.cache_creation_input_tokens > 0
    assert usage.input_tokens == 0 < usage.cache_creation.ephemeral_1h_input_tokens < 30


@pytest.mark.parametrize(
    ("change", "status", "why"),
    [
        ({"max_tokens": None}, 400, "max_tokens: Field required"),
        ({"model": "claude-2"}, 404, "model: claude-2"),
        ({"messages": []}, 400, "at least one message"),
        ({"messages": [{"role": "user", "content": ""}]}, 400, "non-empty content"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, 400, 'first message must use the "user" role'),
        ({"messages": [*said("x")["messages"], {"role": "assistant", "content": "I"}]}, 400, "prefill"),
        ({"temperature": 0}, 400, "temperature: Extra inputs are not permitted"),
        ({"tool_choice": {"type": "tool", "name": "x"}, "tools": [WEATHER]}, 400, "not found in provided tools"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}, 400, "additionalProper"),
        ({"cache_control": {"type": "ephemeral", "ttl": "1d"}}, 400, "ttl"),
    ],
)
def test_what_the_api_refuses_does_not_pass_here(claude: Claude, change: dict, status: int, why: str) -> None:
    answer = post(claude, said("x") | change)
    error = answer.json()
    assert (answer.status_code, error["type"]) == (status, "error")
    assert error["request_id"] == answer.headers["request-id"] and why in error["error"]["message"]


def test_no_tool_call_stays_unanswered(claude: Claude) -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
    turns = [*said("x")["messages"], {"role": "assistant", "content": [use]}]
    alone = post(claude, said("x", messages=[*turns, {"role": "user", "content": "well?"}], tools=[WEATHER]))
    assert "without `tool_result` blocks immediately after: toolu_1" in alone.json()["error"]["message"]
    result = {"type": "tool_result", "tool_use_id": "toolu_2", "content": "rain"}
    other = post(claude, said("x", messages=[*turns, {"role": "user", "content": [result]}], tools=[WEATHER]))
    assert "unexpected `tool_use_id` found in `tool_result` blocks: toolu_2" in other.json()["error"]["message"]


def test_nobody_comes_in_without_a_key_or_with_a_refused_one(claude: Claude) -> None:
    assert post(claude, said("x"), {"anthropic-version": "2026-10-21"}).status_code == 401
    assert post(claude, said("x"), {"x-api-key": "sk-test-1234"}).status_code == 400
    claude.control(keys={"sk-revoked": 401, "sk-poor": 403})
    for key, error in (("sk-revoked", anthropic.AuthenticationError), ("sk-poor", anthropic.PermissionDeniedError)):
        with pytest.raises(error):
            ask(claude, said("x"), api_key=key)


def test_a_batch_loses_no_item_and_ends_only_when_its_time_has_come(claude: Claude) -> None:
    claude.control(batch_delay=None)
    claude.fail("500", on="item", match="item 1")
    requests = [{"custom_id": f"case-{n}", "params": said(f"item {n}")} for n in range(3)]
    requests.append({"custom_id": "wrong", "params": said("item 3", model="claude-2")})

    async def worked(client: AsyncAnthropic) -> tuple[Any, Any, dict[str, Any], str]:
        batch = await client.messages.batches.create(requests=requests)
        waits = await client.messages.batches.retrieve(batch.id)
        claude.control(end_batches=True)
        wait_for(lambda: claude.state()["batches"][batch.id] == "ended", 20, "the end")
        ended = await client.messages.batches.retrieve(batch.id)
        results = {one.custom_id: one.result async for one in await client.messages.batches.results(batch.id)}
        return waits, ended, results, (await client.messages.batches.list()).data[0].id

    waits, ended, results, newest = talk(claude, worked)
    assert (waits.processing_status, waits.request_counts.processing, waits.results_url) == ("in_progress", 4, None)
    assert (ended.request_counts.succeeded, ended.request_counts.errored, newest) == (2, 2, ended.id)
    assert {name: one.type for name, one in results.items()} == {
        "case-0": "succeeded",
        "case-1": "errored",
        "case-2": "succeeded",
        "wrong": "errored",
    }
    assert results["wrong"].error.error.type == "not_found_error"
    paid = {one.custom_id: one for one in claude.entries("batch item") if one.billed}
    assert set(paid) == {"case-0", "case-2"} and paid["case-0"].usage["service_tier"] == "batch"


def test_a_cancelled_batch_bills_nothing(claude: Claude) -> None:
    claude.control(batch_delay=None)

    async def cancelled(client: AsyncAnthropic) -> tuple[str, list[str]]:
        batch = await client.messages.batches.create(requests=[{"custom_id": "never", "params": said("never")}])
        begun = await client.messages.batches.cancel(batch.id)
        wait_for(lambda: claude.state()["batches"][batch.id] == "ended", 20, "the end")
        found = [one.result.type async for one in await client.messages.batches.results(batch.id)]
        return begun.processing_status, found

    assert talk(claude, cancelled) == ("canceling", ["canceled"])
    assert not [one for one in claude.entries() if one.custom_id == "never"]


def test_a_batch_that_nobody_works_does_not_wait_for_ever(claude: Claude) -> None:
    claude.control(batch_delay=None)
    requests = [{"custom_id": "late", "params": said("late")}]
    batch = talk(claude, lambda client: client.messages.batches.create(requests=requests))
    claude.control(advance=24 * 3_600)
    wait_for(lambda: claude.state()["batches"][batch.id] == "ended", 20, "the end")
    assert talk(claude, lambda client: client.messages.batches.retrieve(batch.id)).request_counts.expired == 1
    assert not [one for one in claude.entries() if one.custom_id == "late"]


def test_a_brain_of_ones_own_is_not_passed_over(tmp_path: Path) -> None:
    with claude_server_in(tmp_path, brain="json:dumps") as claude:
        assert json.loads(ask(claude, said("me")).content[0].text) == said("me")
