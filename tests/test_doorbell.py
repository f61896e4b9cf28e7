"""A ring starts one tick at once, whoever else rings; who may not ring learns nothing, and no event gets in."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed
from sqlalchemy import update

from deployments.doorbell import LARGEST, port_and_token
from flows import loop
from flows import permit as word
from tasks.errors import BadInput
from tasks.ledger.agents import release_agent, take_agent
from tasks.ledger.database import Ledger
from tasks.ledger.holders import leave, register
from tasks.ledger.tables import agents
from tasks.process import this_process
from tasks.records import Agent
from tests import forked
from tests.alerting import LACKING, NO_ALERTING, Alerting
from tests.conftest import PROJECT, free_port, wait_for
from tests.servers import prefect_server_in

EVENT = "a word of what came"
TOKEN = "a-token-of-some-length"


class Bell:
    """A doorbell in a process of its own, in front of a real server with one agent."""

    def __init__(self, ledger: Ledger, api: str, box: Path) -> None:
        self.ledger, self.api, self.port = ledger, api, free_port()
        (box / "inbox/new").mkdir(parents=True)
        self.name = f"desk-{uuid.uuid4().hex[:8]}"
        self.agent = Agent(name=self.name, source=f"maildir:{box / 'inbox'}", skills=["answer_ticket"])
        env = {**os.environ, "HOLDFAST_DOORBELL": f"{self.port}:{TOKEN}", "HOLDFAST_LEDGER": ledger.url}
        env |= {"PREFECT_API_URL": api, "PREFECT_CLIENT_MAX_RETRIES": "0", "PREFECT_HOME": str(box / "prefect")}
        self.log = (box / "doorbell.log").open("ab")
        command = [sys.executable, "-m", "deployments.doorbell"]
        self.process = subprocess.Popen(command, env=env, cwd=PROJECT, stdout=self.log, stderr=self.log)
        self.deployment = self.enter(self.name)

    def enter(self, name: str, **settings: Any) -> Any:
        async def enter() -> Any:
            async with get_client() as client:
                flow = await client.create_flow(loop.agent_loop)
                given = {"agent": self.agent.model_dump(mode="json"), "dry_run": True}
                return await client.create_deployment(flow, name, parameters=given, **settings)

        return asyncio.run(enter())

    def up(self) -> None:
        def answers() -> bool:
            assert self.process.poll() is None, Path(self.log.name).read_text()
            try:
                return httpx.get(f"http://127.0.0.1:{self.port}/health").status_code == 200
            except httpx.HTTPError:
                return False

        wait_for(answers, 60, "the doorbell")

    def ring(self, agent: str = "", token: str = TOKEN, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"http://127.0.0.1:{self.port}/ring/{agent or self.name}"
        return httpx.post(url, **({"headers": headers, "timeout": 60, "json": {"alerts": [EVENT]}} | more))

    def runs(self) -> list[Any]:
        mine = FlowRunFilter.model_validate({"deployment_id": {"any_": [self.deployment]}})

        async def read() -> list[Any]:
            async with get_client() as client:
                return await client.read_flow_runs(flow_run_filter=mine)

        return asyncio.run(read())

    def take(self) -> str:
        """A tick begins; the holder of its lease."""
        holder = uuid.uuid4().hex
        self.ledger.write_now("register", lambda c: register(c, holder, this_process(), ""))
        assert self.ledger.write_now("take", lambda c: take_agent(c, self.agent, True, holder)) == ""
        return holder

    def give(self, holder: str) -> int | None:
        rung = self.ledger.write_now("release", lambda c: release_agent(c, self.name, holder))
        self.ledger.write_now("leave", lambda c: leave(c, holder))
        return rung

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()


@pytest.fixture
def bell(ledger: Ledger, prefect_server: str, tmp_path: Path) -> Iterator[Bell]:
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        one = Bell(ledger, prefect_server, tmp_path)
        try:
            one.up()
            yield one
        finally:
            one.stop()


def test_many_rings_at_once_make_one_run_and_the_next_after_its_turn_another(bell: Bell) -> None:
    with ThreadPoolExecutor(20) as pool:
        heard = [one.status_code for one in pool.map(lambda _: bell.ring(), range(60))]
    assert set(heard) == {202} and len(bell.runs()) == 1
    (run,) = bell.runs()
    assert EVENT not in str(run.parameters) and run.parameters["dry_run"] is True
    bell.give(bell.take())
    assert bell.ring().status_code == 202 and bell.ring().status_code == 202
    assert len(bell.runs()) == 2


def test_rings_during_a_tick_are_followed_by_exactly_one_more(bell: Bell) -> None:
    tick = bell.take()
    for _ in range(3):
        assert "one more tick follows" in bell.ring().text
    assert bell.runs() == [], "it would find the other at work, and see nothing"
    assert bell.give(tick) == 1
    assert bell.give(bell.take()) is None, "rings before a tick are seen by it"


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_tick_that_was_rung_at_starts_the_one_that_follows(bell: Bell, monkeypatch: pytest.MonkeyPatch) -> None:
    poll, rings = loop._poll, [2]

    async def polled(*words: Any) -> Any:
        for _ in range(rings.pop() if rings else 0):
            assert (await asyncio.to_thread(bell.ring)).status_code == 202
        return await poll(*words)

    monkeypatch.setattr(loop, "_poll", polled)
    monkeypatch.setenv("HOLDFAST_LEDGER", bell.ledger.url)
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", str(bell.deployment))
    asyncio.run(loop.agent_loop(bell.agent, dry_run=True))
    assert [run.state_name for run in bell.runs()] == ["Scheduled"]
    asyncio.run(loop.agent_loop(bell.agent, dry_run=True))
    assert len(bell.runs()) == 1, "a tick at which nobody rang started another"


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_word_on_what_waits_and_a_command_ring_as_well(bell: Bell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_LEDGER", bell.ledger.url)
    monkeypatch.setattr(word, "decide", lambda *_: True)
    monkeypatch.setattr(word, "agent_of", lambda *_: bell.name)
    asyncio.run(word.permit(case=1, digest="0" * 12, decision="permit", who="ann"))
    assert len(bell.runs()) == 1
    bell.give(bell.take())
    env = {**os.environ, "PREFECT_API_URL": bell.api, "PREFECT_LOGGING_LEVEL": "ERROR"}
    done = forked.run("deployments", "ring", bell.name, env=env)
    assert "sees to it" in done.stdout and len(bell.runs()) == 2, done.stdout
    done = forked.run("deployments", "ring", "nobody", env=env)
    assert done.returncode == 1 and "No agent 'nobody' is deployed here" in done.stdout
    env |= {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    done = forked.run("deployments", "ring", bell.name, env=env)
    assert done.returncode == 1 and "does not answer" in done.stdout and "Traceback" not in done.stdout


def test_a_run_that_died_before_its_turn_does_not_silence_the_bell(bell: Bell) -> None:
    bell.ring()
    (dead,) = bell.runs()

    async def crash() -> None:
        async with get_client() as client:
            over: State[Any] = Crashed()
            await client.set_flow_run_state(dead.id, over, force=True)

    asyncio.run(crash())
    for _ in range(2):
        assert bell.ring().status_code == 202
    made = len(bell.runs())
    assert made in (2, 3), "none was made, or one for each ring"  # 3: a minute began between the two


def test_who_holds_the_lease_and_is_dead_takes_no_ring_with_it(bell: Bell) -> None:
    tick = bell.take()
    bell.ledger.write_now("leave", lambda c: leave(c, tick))
    held = update(agents).where(agents.c.name == bell.name).values(holder=tick)
    bell.ledger.write_now("hold", lambda c: c.execute(held))
    # A server that is busy says so, and whoever rings tries again.
    wait_for(lambda: "sees to it" in bell.ring().text, 60, "the ring")
    assert len(bell.runs()) == 1


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_who_may_not_ring_starts_nothing_and_learns_nothing(bell: Bell) -> None:
    wrong = ["x", f"{TOKEN}x", TOKEN[:-1], TOKEN.upper(), "ä"]
    for token in wrong:
        head = [(b"authorization", f"Bearer {token}".encode())]
        for agent in (bell.name, "nobody"):
            heard = bell.ring(agent, headers=head)
            assert (heard.status_code, heard.headers["www-authenticate"]) == (401, "Bearer")
    assert bell.ring(token="").status_code == 401
    assert bell.ring(headers={"Authorization": f"Basic {TOKEN}"}).status_code == 401
    assert bell.ring("nobody").status_code == 404
    assert bell.ring("no%20body%2F..").status_code == 404 and bell.ring("x" * 41).status_code == 404
    assert httpx.get(f"http://127.0.0.1:{bell.port}/ring/{bell.name}").status_code == 405
    assert bell.ring(content=b"x" * (LARGEST + 1), json=None).status_code == 413
    assert bell.runs() == []
    paused = f"p{uuid.uuid4().hex[:8]}"
    bell.enter(paused, paused=True)
    assert bell.ring(paused).status_code == 409


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_server_that_is_gone_lets_the_caller_try_again_and_then_the_ring_counts(
    ledger: Ledger, tmp_path: Path
) -> None:
    port = free_port()
    with prefect_server_in(tmp_path / "server", port) as api, temporary_settings({PREFECT_API_URL: api}):
        one = Bell(ledger, api, tmp_path)
        one.up()
    try:
        heard = one.ring()
        assert (heard.status_code, heard.headers["retry-after"]) == (503, "5")
        with prefect_server_in(tmp_path / "server", port) as api, temporary_settings({PREFECT_API_URL: api}):
            wait_for(lambda: one.ring().status_code == 202, 60, "a ring that counts")
            assert len(one.runs()) == 1
    finally:
        one.stop()


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_real_alertmanager_rings_and_rings_again_once_a_server_is_there(ledger: Ledger, tmp_path: Path) -> None:
    if LACKING:
        pytest.skip(NO_ALERTING.format(LACKING[0]))
    port = free_port()
    with prefect_server_in(tmp_path / "server", port) as api, temporary_settings({PREFECT_API_URL: api}):
        one = Bell(ledger, api, tmp_path)
    hook = {"url": f"http://127.0.0.1:{one.port}/ring/{one.name}", "send_resolved": False}
    hook["http_config"] = {"authorization": {"type": "Bearer", "credentials": TOKEN}}
    route = {"receiver": "doorbell", "group_wait": "0s", "group_interval": "1s", "repeat_interval": "1h"}
    told = {"route": route, "receivers": [{"name": "doorbell", "webhook_configs": [hook]}]}
    alerting = Alerting(tmp_path / "alerting", [], told, "1m")
    log = tmp_path / "alerting/prometheus-alertmanager.log"
    try:
        one.up()
        alerting.alertmanager.start()
        alerting.send({"labels": {"alertname": "DiskFull", "host": "db1"}, "annotations": {"summary": EVENT}})
        wait_for(lambda: "503" in log.read_text(), 60, "a ring that finds no server")
        with prefect_server_in(tmp_path / "server", port) as api, temporary_settings({PREFECT_API_URL: api}):
            (run,) = wait_for(one.runs, 90, "a run that Alertmanager rang for")
            assert EVENT not in str(run.parameters)
    finally:
        one.stop()
        alerting.alertmanager.kill()


@pytest.mark.parametrize("setting", ["", "short", "4280:short", "0:" + TOKEN, "70000:" + TOKEN, "with space " * 3])
def test_a_token_that_could_be_guessed_is_refused(setting: str) -> None:
    with pytest.raises(BadInput, match="openssl rand"):
        port_and_token(setting)
    assert port_and_token(TOKEN) == (4280, TOKEN) and port_and_token(f"99:{TOKEN}") == (99, TOKEN)
