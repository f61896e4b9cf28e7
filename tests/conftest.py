"""Real servers for real kills: one Prefect server and one Postgres for the session, a fresh ledger for each test."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, text

from tasks.ledger.agents import release_agent, take_agent
from tasks.ledger.cases import decide, record
from tasks.ledger.database import Ledger, migrate
from tasks.ledger.holders import register
from tasks.process import this_process
from tasks.records import Agent, Arrival

PROJECT = Path(__file__).resolve().parents[1]
INITDB = shutil.which("initdb") or next(
    (str(found) for found in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition, seconds: float, what: str):  # type: ignore[no-untyped-def]
    """Await a condition by looking at it often; its value when it becomes true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.02)
    raise TimeoutError(f"{what} did not happen within {seconds} s")


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home, port = tmp_path_factory.mktemp("prefect"), free_port()
    url = f"http://127.0.0.1:{port}/api"
    env = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "500",
        "PREFECT_API_URL": url,
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = (home / "server.log").open("w")
    server = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)

    def healthy() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{url}/health").status_code == 200
        return False

    try:
        wait_for(healthy, 90, f"Prefect's server ({home / 'server.log'})")
        yield url
    finally:
        os.killpg(server.pid, 9)
        server.wait()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server of our own, without the database's name."""
    if INITDB is None:
        pytest.skip("no initdb here: install Debian's package postgresql to run the Postgres half")
    folder, port = Path(tmp_path_factory.mktemp("postgres")), free_port()
    binaries, user = Path(INITDB).resolve().parent, {}
    if os.geteuid() == 0:  # Postgres refuses to run as root
        owner = pwd.getpwnam("postgres")
        user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        folder = Path("/tmp") / f"holdfast-pg-{uuid.uuid4().hex[:8]}"
        folder.mkdir(mode=0o700)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    data = folder / "data"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "cwd": "/"}
    subprocess.run([binaries / "initdb", "-D", data, "-U", "holdfast", "-A", "trust"], check=True, **quiet, **user)
    serve = [binaries / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder]
    server = subprocess.Popen(serve, **quiet, **user)
    url = f"postgresql://holdfast@127.0.0.1:{port}"
    engine = create_engine(f"{url}/postgres".replace("postgresql:", "postgresql+psycopg:"))

    def answers() -> bool:
        with contextlib.suppress(Exception), engine.connect() as connection:
            return connection.execute(text("select 1")).scalar() == 1
        return False

    try:
        wait_for(answers, 60, "Postgres")
        yield url
    finally:
        engine.dispose()
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgres"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of its own for this test, on both engines."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    server, name = request.getfixturevalue("postgres"), f"l{uuid.uuid4().hex[:10]}"
    admin = f"{server}/postgres".replace("postgresql:", "postgresql+psycopg:")
    with create_engine(admin, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    return f"{server}/{name}"


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    ledger = Ledger(ledger_url)
    migrate(ledger)
    yield ledger
    ledger.close()


def arrival(number: int, thread: str = "", body: str = "one two three") -> Arrival:
    key = f"<{number}@example.com>"
    return Arrival(
        marker=f"file-{number}",
        key=key,
        thread=thread or key,
        sender=f"c{number}@example.com",
        subject=f"Question {number}",
        text=body,
        arrived=datetime(2026, 1, 1, 0, 0, number % 60, tzinfo=UTC),
        attributes={"message_id": key, "references": []},
    )


def fill(ledger: Ledger, box: Path, arrivals: list[Arrival], *, dry_run: bool = False, **settings: object) -> Agent:
    """Enter an agent and its cases as a tick would."""
    given = {"name": "desk", "source": "maildir:/inbox", "skills": ["practice"]}
    agent = Agent.model_validate(given | {"effects": {"reply": f"maildir:{box / 'sent'}"}} | settings)

    def enter(c):  # type: ignore[no-untyped-def]
        holder = uuid.uuid4().hex
        register(c, holder, this_process(), "")
        assert take_agent(c, agent, dry_run, holder) == ""
        record(c, "desk", agent.source, arrivals)
        decide(c, range(1, len(arrivals) + 1), "practice")
        release_agent(c, "desk", holder)
        from tasks.ledger.holders import leave

        leave(c, holder)

    ledger.write_now("fill", enter)
    return agent
