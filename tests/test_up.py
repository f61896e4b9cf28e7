"""`up` keeps server and worker alive through kills, and `down` leaves nothing running and no run shown as running."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.supervisor import healthy
from deployments.tickets import deliver, tickets
from tests.conftest import PROJECT, free_port, wait_for
from tests.servers import with_tables

ALIVE = ("RUNNING", "PENDING", "CANCELLING")
# `python -m deployments`, which asks its server ten times as often whether it is there.
SOON = "from deployments import __main__, supervisor; supervisor.ASK_SECONDS = 1.0; __main__.main()"


class Up:
    """An installation in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.env = {one: value for one, value in os.environ.items() if not one.startswith(("PREFECT_", "HOLDFAST_"))}
        self.env |= {"HOLDFAST_HOME": str(folder), "PYTHONUNBUFFERED": "1"}
        self.bell, self.token = free_port(), "a-token-of-some-length"
        self.env["HOLDFAST_DOORBELL"] = f"{self.bell}:{self.token}"
        self.said = folder / "said"
        with_tables(folder / "prefect")
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", SOON, "up", "--port", str(self.port)]
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(command, env=self.env, cwd=PROJECT, stdout=said, stderr=said)
        self.wait_to_hear("Up. Watch")
        return self.process

    def wait_to_hear(self, words: str, seconds: float = 240) -> None:
        wait_for(lambda: words in self.said.read_text() or self.process.poll() is not None, seconds, words)
        assert words in self.said.read_text(), self.said.read_text()

    def act(self, **settings: Any) -> None:
        """Let every tick act, heartbeats too: one that came first would rehearse the inbox and leave nothing to do."""

        async def change() -> bool:
            async with get_client() as client:
                found = await client.read_deployment_by_name("agent-loop/support")
                agent = {**found.parameters["agent"], **settings}
                live = DeploymentUpdate(parameters={**found.parameters, "agent": agent, "dry_run": False})
                await client.update_deployment(found.id, live)
                # A run that was due before keeps what it was made with.
                mine = DeploymentFilter(id=DeploymentFilterId(any_=[found.id]))
                runs = await client.read_flow_runs(deployment_filter=mine, limit=200)
                rehearsals = [run for run in runs if run.parameters["dry_run"] and not run.state.is_final()]
                for run in rehearsals:
                    if run.state.is_scheduled():
                        await client.delete_flow_run(run.id)
                return not rehearsals

        with temporary_settings({PREFECT_API_URL: self.api}):
            wait_for(lambda: asyncio.run(change()), 120, "the end of rehearsals")

    def tick(self) -> None:
        async def ask() -> None:
            async with get_client() as client:
                found = await client.read_deployment_by_name("agent-loop/support")
                await client.create_flow_run_from_deployment(found.id)

        with temporary_settings({PREFECT_API_URL: self.api}):
            asyncio.run(ask())

    def rings(self) -> bool:
        head = {"Authorization": f"Bearer {self.token}"}
        with contextlib.suppress(httpx.ConnectError):
            url = f"http://127.0.0.1:{self.bell}/ring/support"
            return httpx.post(url, headers=head, timeout=60).raise_for_status().status_code == 202
        return False

    def deliver(self) -> None:
        deliver(tickets(1), self.folder / "inbox")

    def mails(self) -> int:
        return sum(len(list(self.folder.glob(f"{box}/new/*"))) for box in ("sent", "handover"))

    def down(self) -> None:
        command = [sys.executable, "-m", "deployments", "down"]
        subprocess.run(command, env=self.env, cwd=PROJECT, check=True, capture_output=True, timeout=90)
        assert self.process.wait(10) == 0

    def kill(self) -> None:
        self.process.kill()  # the supervisor first: it would start the others again
        self.process.wait()
        for line in self.living():
            os.kill(int(line.split()[0]), signal.SIGKILL)

    def shown(self, *states: str) -> list[Any]:
        """What the UI would show, read from Prefect's database because its server is down."""
        marks = ",".join("?" * len(states))
        with sqlite3.connect(f"file:{self.folder}/prefect/prefect.db?mode=ro", uri=True) as kept:
            query = f"SELECT name, state_type, state_name FROM flow_run WHERE state_type IN ({marks})"
            return kept.execute(query, states).fetchall()

    def living(self) -> list[str]:
        oldest_first = ["ps", "-eo", "pid,args", "--sort=start_time"]
        found = subprocess.run(oldest_first, capture_output=True, text=True, check=True).stdout
        ours = [line for line in found.splitlines() if "prefect" in line or "deployments." in line]
        return [line for line in ours if str(self.folder) in _environment(line.split()[0])]


def _environment(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    house = Up(tmp_path)
    try:
        yield house
    finally:
        house.kill()
        print(house.said.read_text())


@pytest.mark.timeout(400)
def test_an_inbox_is_worked_on_the_heartbeat_although_nobody_asks(up: Up) -> None:
    def settled() -> int:
        with sqlite3.connect(up.folder / "ledger.db") as ledger:
            return int(ledger.execute("SELECT count(*) FROM cases WHERE state = 'settled'").fetchone()[0])

    up.deliver()
    wait_for(lambda: (up.folder / "ledger.db").exists() and settled() == 47, 150, "a tick that nobody asked for")
    doctor = [sys.executable, "-m", "deployments", "doctor"]
    env = up.env | {"PREFECT_API_URL": up.api}
    said = subprocess.run(doctor, env=env, cwd=PROJECT, capture_output=True, text=True, timeout=60).stdout
    assert "is planned" not in said and "deployments: answer-ticket" in said, said


@pytest.mark.timeout(600)
def test_what_dies_is_started_again_and_down_leaves_nothing_behind(up: Up) -> None:
    words = {"server": "server start", "worker": "worker start", "warm": "deployments.warm"}
    words["doorbell"] = "deployments.doorbell"
    # A forked run has the words of the warm process, and is younger.
    children = {name: line.split()[0] for name, said in words.items() for line in reversed(up.living()) if said in line}
    for name in words:
        os.kill(int(children[name]), signal.SIGKILL)
        up.wait_to_hear(f"{name} died")
    wait_for(lambda: healthy(up.api), 180, "the server's return")
    for server in [line.split()[0] for line in up.living() if words["server"] in line]:
        os.kill(int(server), signal.SIGSTOP)
    up.wait_to_hear("server did not answer", 240)  # a question that was under way has to run out first
    wait_for(lambda: healthy(up.api), 240, "the return of a server that hung")
    second = subprocess.run(
        [sys.executable, "-m", "deployments", "up"], env=up.env, cwd=PROJECT, capture_output=True, text=True
    )
    assert second.returncode == 1 and "runs already" in second.stdout
    up.act()
    up.deliver()
    up.tick()
    wait_for(lambda: up.mails() >= 3, 180, "the first mails after the restart")
    up.process.terminate()  # what `down` sends; that one's own start takes as long as half the inbox
    assert up.process.wait(90) == 0
    assert up.shown(*ALIVE) == [] and up.living() == []
    first = up.mails()
    assert first < 47, "the drain came too late to show anything"
    with sqlite3.connect(up.folder / "ledger.db") as ledger:
        states = dict(ledger.execute("SELECT state, count(*) FROM cases GROUP BY state").fetchall())
    assert set(states) <= {"open", "settled"} and states["settled"] == first, states
    up.start()
    wait_for(up.rings, 60, "the doorbell's start")
    wait_for(lambda: up.mails() == 47, 180, "the rest of the inbox")
    up.down()
    assert up.shown(*ALIVE) == [] and up.living() == []
    assert "Draining" in up.said.read_text()
