"""One database, one writer thread, and nothing that blocks the event loop."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from tasks.errors import BadInput, LedgerLost
from tasks.home import home
from tasks.ledger.locked import LockWatch

T = TypeVar("T")
Job = Callable[[Connection], T]
"""A write or a read. It may be called again after a rollback, so it touches nothing but the database."""

BUSY_SECONDS = 30.0  # how long a locked database is waited for before the work in hand stops: longer than a lease
TRY_SECONDS = 1.0  # of that at once, so that whoever waits can see who is in the way
GROUP = 64  # writes that share one sync
WAYS_OUT = {
    "is full": "free space on its disk",
    "readonly": "let this user write it and its folder, and see that its disk is not mounted read-only",
    "read-only": "let this user write it and its folder, and see that its disk is not mounted read-only",
    "unable to open": "let this user write it and its folder, and see that its disk is not mounted read-only",
    "disk I/O error": "see the kernel's log for its disk, and that it is not full",
    "malformed": "stop everything and restore the last backup",
    "not a database": "stop everything and restore the last backup",
}
# A process that freezes in the middle of a write would keep its row locks: the server ends its session instead.
POSTGRES = f"-c lock_timeout={TRY_SECONDS:.0f}s -c idle_in_transaction_session_timeout=10s"


def ledger_url() -> str:
    """`HOLDFAST_LEDGER`, or a SQLite file in `HOLDFAST_HOME` (default `.holdfast` in the clone)."""
    if url := os.environ.get("HOLDFAST_LEDGER"):
        return url
    return f"sqlite:///{home() / 'ledger.db'}"


def connect(url: str) -> Engine:
    """An engine whose transactions are explicit: SQLite in WAL with a sync at every commit, or Postgres."""
    try:
        address = make_url(url)
    except SQLAlchemyError as why:
        raise BadInput(
            f"HOLDFAST_LEDGER is not a database URL ({why}). Use sqlite:////absolute/file or postgresql://…"
        ) from why
    if address.get_backend_name() == "postgresql":
        return create_engine(
            address.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_size=5,
            connect_args={"connect_timeout": 5, "options": POSTGRES},
        )
    if address.get_backend_name() != "sqlite" or not address.database:
        raise BadInput(
            f"HOLDFAST_LEDGER names {address.get_backend_name()!r}. Use sqlite:////absolute/file or postgresql://…"
        )
    try:
        Path(address.database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as why:
        raise BadInput(f"The ledger's folder {Path(address.database).parent} can not be made: {why}") from why
    engine = create_engine(address, connect_args={"timeout": TRY_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # or the driver would begin transactions of its own
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A deferred transaction that turns into a write fails at once when another one wrote: take the lock first.
        reads = connection.get_execution_options().get("reads")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _again(why: BaseException) -> bool:
    """Whether the database says that it applied nothing and another try can help: locked, deadlock, serialisation."""
    if not isinstance(why, DBAPIError):
        return False
    code = getattr(why.orig, "sqlstate", "")
    return code in {"40001", "40P01", "55P03"} or "database is locked" in str(why.orig)


class Ledger:
    """The project's own database. `write` and `read` may be awaited from any event loop; `*_now` block."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = connect(url)
        self._jobs: queue.SimpleQueue[tuple[str, Job[Any], Future[Any]]] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._starting = threading.Lock()
        self._watch = LockWatch(self.engine) if self.engine.dialect.name == "sqlite" else None

    async def write(self, doing: str, job: Job[T]) -> T:
        """Run `job` in a transaction of the writer; LedgerLost if it was not committed, or if nobody can tell."""
        return await asyncio.wrap_future(self.submit(doing, job))

    def write_now(self, doing: str, job: Job[T]) -> T:
        """As `write`, for threads and commands."""
        return self.submit(doing, job).result()

    async def read(self, doing: str, job: Job[T]) -> T:
        """Run `job` on a snapshot, off the event loop."""
        return await asyncio.to_thread(self.read_now, doing, job)

    def read_now(self, doing: str, job: Job[T]) -> T:
        """As `read`, for threads and commands."""
        try:
            with self.engine.connect().execution_options(reads=True) as connection, connection.begin():
                return job(connection)
        except SQLAlchemyError as why:
            raise LedgerLost(doing, self.said(why)) from why

    def said(self, why: BaseException) -> str:
        """A database error for people: which file or server, and the way out where the error tells it."""
        text, address = _plain(why), self.engine.url
        if address.get_backend_name() != "sqlite":
            return f"{text} (Postgres at {address.host or 'its socket'}, database {address.database})"
        hint = next((way for symptom, way in WAYS_OUT.items() if symptom in text), "")
        return f"{text} ({address.database}{hint and '; ' + hint})"

    def submit(self, doing: str, job: Job[T]) -> Future[T]:
        """As `write`, without waiting for it."""
        promise: Future[T] = Future()
        with self._starting:
            if self._writer is None or not self._writer.is_alive():
                self._writer = threading.Thread(target=self._write_forever, name="ledger-writer", daemon=True)
                self._writer.start()
        self._jobs.put((doing, job, promise))
        return promise

    def _write_forever(self) -> None:
        while True:
            group = [self._jobs.get()]
            while len(group) < GROUP:
                try:
                    group.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            group = [job for job in group if job[2].set_running_or_notify_cancel()]
            if group and not self._write_together(group):
                patience, locked = time.monotonic() + BUSY_SECONDS, ""
                for job in group:
                    # Whoever waited as long as anyone may speaks for all behind it.
                    locked = self._write_alone(job, patience, locked)

    def _write_together(self, group: list[tuple[str, Job[Any], Future[Any]]]) -> bool:
        """One commit for all; False if nothing was applied and each must be tried alone."""
        committing = False
        try:
            with self.engine.connect() as connection, connection.begin():
                results = [job(connection) for _, job, _ in group]
                committing = True
        except BaseException as why:
            # A job that refuses, such as a lost fence, takes nobody's writes along: the group is rolled back whole.
            # A commit that failed may have been applied. Only a refusal that says «nothing was» leads to another try.
            if not committing or _again(why):
                return False
            for doing, _, promise in group:
                promise.set_exception(LedgerLost(doing, self.said(why)))
            return True
        for (_, _, promise), value in zip(group, results, strict=True):
            promise.set_result(value)
        return True

    def _write_alone(self, one: tuple[str, Job[Any], Future[Any]], patience: float, locked: str) -> str:
        """Returns why nothing can be written for now, '' if something can."""
        doing, job, promise = one
        while not locked:
            try:
                with self.engine.connect() as connection, connection.begin():
                    value = job(connection)
            except BaseException as why:
                if _again(why):
                    blocker = self._watch.look() if self._watch else ""
                    locked = self.said(why) + blocker if time.monotonic() > patience else ""
                    time.sleep(0.02)
                    continue
                promise.set_exception(LedgerLost(doing, self.said(why)) if isinstance(why, SQLAlchemyError) else why)
                return ""
            promise.set_result(value)
            return ""
        promise.set_exception(LedgerLost(doing, locked))
        return locked

    def close(self) -> None:
        """Give the connections back; what was submitted before is not waited for."""
        self.engine.dispose()


def _plain(why: BaseException) -> str:
    """A database error without its SQL and parameters: those hold customers' words."""
    return str(getattr(why, "orig", None) or why).strip()


def migrate(ledger: Ledger) -> None:
    """Bring the tables to this version; safe when many processes start at once."""
    from tasks.ledger import migrations

    patience = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return migrations.upgrade(ledger.engine)
        except migrations.Newer as why:
            raise BadInput(f"The ledger {ledger.engine.url!r} {why}") from why
        except SQLAlchemyError as why:
            if not _again(why) or time.monotonic() > patience:
                raise LedgerLost("prepare its tables", ledger.said(why)) from why


@lru_cache(maxsize=4)
def _opened(url: str, pid: int) -> Ledger:
    ledger = Ledger(url)
    migrate(ledger)
    return ledger


def the_ledger() -> Ledger:
    """The ledger of this process, opened and migrated on first use; a forked child opens its own."""
    return _opened(ledger_url(), os.getpid())


def one_line(connection: Connection) -> str:
    """The database's name and version, for `doctor`."""
    name = connection.dialect.name
    query = "select sqlite_version()" if name == "sqlite" else "show server_version"
    return f"{name} {connection.execute(text(query)).scalar_one()}"
