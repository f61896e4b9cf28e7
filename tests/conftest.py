"""Real servers for real kills: one Prefect server and one Postgres for the session, a fresh ledger for each test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

# Before Prefect is imported, also by what the tests start: nobody reads these logs on a server.
os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")

import pytest
from sqlalchemy import Connection

from tasks.ledger.agents import release_agent, take_agent
from tasks.ledger.arrivals import record
from tasks.ledger.database import Ledger, migrate
from tasks.ledger.holders import leave, register
from tasks.ledger.routing import decide
from tasks.process import this_process
from tasks.records import Agent, Arrival
from tests.postoffice import PostOffice, post_office
from tests.servers import INITDB, Postgres, free_port, prefect_server_in, wait_for

PROJECT = Path(__file__).resolve().parents[1]
__all__ = ["PROJECT", "arrival", "fill", "free_port", "wait_for"]


LONGEST = (
    "test_chaos",
    "test_chaos_house",
    "test_up",
    "test_simulation",
    "test_warm",
    "test_budgets",
    "test_conversation",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker begins one when the others are done."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda one: place.get(one.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with prefect_server_in(tmp_path_factory.mktemp("prefect")) as url:
        yield url


NO_POSTGRES = "no initdb here: install Debian's package postgresql to run the Postgres half"


def a_postgres(durable: bool) -> Iterator[Postgres]:
    """A server of the caller's own; where none can be made the test is skipped, and the summary says why."""
    if INITDB is None:
        pytest.skip(NO_POSTGRES)
    server = Postgres(durable=durable)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    yield from a_postgres(durable=False)


@pytest.fixture(scope="session")
def postgres(postgres_server: Postgres) -> str:
    """URL of a server of our own, without the database's name."""
    return postgres_server.url


@pytest.fixture(scope="session")
def office() -> Iterator[PostOffice]:
    """Real mail servers; who changes `late`, `refused` or `heard` sets them back."""
    with post_office() as office:
        yield office


@pytest.fixture(params=["sqlite", "postgres"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of its own for this test, on both engines."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    server: Postgres = request.getfixturevalue("postgres_server")
    return server.create(f"l{uuid.uuid4().hex[:10]}")


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
    ledger.write_now("fill", lambda c: enter(c, agent, arrivals, dry_run))
    return agent


def enter(c: Connection, agent: Agent, arrivals: list[Arrival], dry_run: bool = False) -> None:
    """Enter an agent and its cases, decided for the agent's only skill, in one transaction."""
    holder = uuid.uuid4().hex
    register(c, holder, this_process(), "")
    assert take_agent(c, agent, dry_run, holder) == ""
    record(c, agent.name, agent.source, arrivals)
    decide(c, range(1, len(arrivals) + 1), agent.skills[0])
    release_agent(c, agent.name, holder)
    leave(c, holder)
