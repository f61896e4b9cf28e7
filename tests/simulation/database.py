"""One in-memory ledger for all stories: the real tables and queries, each write at the moment the scheduler says."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from tasks.errors import LedgerLost
from tasks.ledger.database import Job, Ledger
from tasks.ledger.tables import metadata
from tests.simulation.virtual import Door, Proc, promised

if TYPE_CHECKING:
    from tests.simulation.world import World


class Gone(BaseException):
    """Raised in what is left of a dead process when it reaches for the ledger."""


class Database:
    """SQLite in memory, one connection, emptied for every story."""

    def __init__(self) -> None:
        self.engine = create_engine("sqlite://", poolclass=StaticPool)

        @event.listens_for(self.engine, "connect")
        def _prepare(connection: Any, _: Any) -> None:
            connection.isolation_level = None
            connection.execute("PRAGMA foreign_keys=OFF")  # the tables are emptied in any order

        @event.listens_for(self.engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.connection.driver_connection.execute("BEGIN")

        metadata.create_all(self.engine)
        self.connection = self.engine.connect()
        raw = self.connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        self.raw = raw

    def empty(self) -> None:
        for table in metadata.tables:
            self.raw.execute(f"DELETE FROM {table}")

    def fill(self, rows: dict[str, list[tuple[object, ...]]]) -> None:
        for table, some in rows.items():
            self.raw.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(some[0]))})", some)

    def rows(self) -> dict[str, list[tuple[object, ...]]]:
        every = {table: self.raw.execute(f"SELECT * FROM {table}").fetchall() for table in metadata.tables}
        return {table: some for table, some in every.items() if some}

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self.connection.begin():
            yield self.connection


class Engine:
    """Stands in for the engine of a process: the beat's own connection."""

    def __init__(self, world: World, process: Proc) -> None:
        self.world, self.process = world, process

    def connect(self) -> Any:
        if self.process.machine.cut:
            raise OperationalError("beat", {}, Exception("the ledger is out of reach"))
        return contextlib.nullcontext(self.world.store.connection)


class SimLedger(Ledger):
    """The ledger as one simulated process has it: its own queue of writes, opened by the scheduler."""

    def __init__(self, world: World, process: Proc) -> None:
        self.url, self.world, self.process = "simulated", world, process
        self.engine = Engine(world, process)

    def submit(self, doing: str, job: Job[Any]) -> Future[Any]:
        if not self.process.exists:
            raise Gone
        door = Door(f"write: {doing}", lambda _: None, lambda: None, ("refused", "unheard"))
        self.process.doors.append(door)
        return promised(door, lambda fault: self._commit(doing, job, fault))

    def _commit(self, doing: str, job: Job[Any], fault: str) -> Any:
        if self.process.machine.cut or fault == "refused":
            raise LedgerLost(doing, "out of reach")
        try:
            with self.world.store.transaction() as connection:
                value = job(connection)
        except SQLAlchemyError as why:
            # Nothing in the simulation makes the database itself fail: this is a statement that can not work.
            self.world.judge.broken(f"{doing} failed in the database: {why}")
        if fault == "unheard":
            raise LedgerLost(doing, "committed, and nobody can tell")
        return value

    def read_now(self, doing: str, job: Job[Any]) -> Any:
        if not self.process.exists:
            raise Gone
        if self.process.machine.cut:
            raise LedgerLost(doing, "out of reach")
        with self.world.store.transaction() as connection:
            return job(connection)
