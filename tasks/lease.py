"""Holding leases: one holder per process, kept alive by a thread and a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row
from sqlalchemy.exc import SQLAlchemyError

from tasks.ledger import Ledger
from tasks.ledger.agents import draining
from tasks.ledger.holders import BEAT_SECONDS, CONFIRM_SECONDS, LEASE_SECONDS, Observer, beat, leave, register
from tasks.process import outlive_the_reader, this_process

log = logging.getLogger("holdfast.lease")
GRACE_SECONDS = 30.0  # past its deadline a case that the event loop could not end is presumed to hang it


class Lease:
    """What a process holds. It is fresh while the others can not have given it up."""

    def __init__(self, ledger: Ledger, flow_run: str) -> None:
        self.holder = str(uuid.uuid4())
        self._ledger = ledger
        self._flow_run = flow_run
        self.taken_from: list[Row[Any]] = []
        """Dead holders whose cases were set free when this one began."""
        self.draining: frozenset[str] = frozenset()
        """Agents that shall begin no new step, as of the last beat."""
        self._deadlines: dict[int, float] = {}
        self._heard = time.monotonic()
        self._lost = False
        self._stop = threading.Event()
        self._riding: Future[tuple[bool, frozenset[str]]] | None = None
        """A beat that goes with what this process writes next."""
        self._thread = threading.Thread(target=self._beat_until_stopped, name="lease-beat", daemon=True)

    def fresh(self) -> bool:
        """False from half the lease without a heard beat: others take over only after the whole of it."""
        return not self._lost and time.monotonic() - self._heard < LEASE_SECONDS / 2

    @contextlib.contextmanager
    def on_time(self, case: int, seconds: float) -> Iterator[None]:
        """Note a case's deadline, so that a hung one is not kept alive."""
        self._deadlines[case] = time.monotonic() + seconds + GRACE_SECONDS
        try:
            yield
        finally:
            self._deadlines.pop(case, None)

    def _beat_until_stopped(self) -> None:
        # A connection of its own: neither a busy writer nor a busy event loop may silence the beat.
        while not self._stop.wait(BEAT_SECONDS):
            now = time.monotonic()
            if late := [case for case, deadline in list(self._deadlines.items()) if deadline < now]:
                log.error("Cases %s are past their deadline and hang this process; it stops holding its leases.", late)
                continue
            try:
                with self._ledger.engine.connect() as connection, connection.begin():
                    told = self._pulse(connection)
            except SQLAlchemyError as why:
                log.warning("The lease's beat was not heard: %s", getattr(why, "orig", why))
                # On a slow disk our own writer may leave SQLite's lock to nobody: then it takes a beat along.
                if self._riding is None or self._riding.done():
                    self._riding = self._ledger.submit("say that it lives", self._pulse)
                    self._riding.add_done_callback(partial(self._written, now))
                continue
            self._hear(now, told)

    def _pulse(self, c: Connection) -> tuple[bool, frozenset[str]]:
        return beat(c, self.holder), draining(c)

    def _written(self, asked: float, riding: Future[tuple[bool, frozenset[str]]]) -> None:
        if riding.exception() is None:
            self._hear(asked, riding.result())

    def _hear(self, asked: float, told: tuple[bool, frozenset[str]]) -> None:
        """Count a beat from before it was written: nobody can have taken over earlier than a lease after that."""
        alive, self.draining = told
        self._lost = not alive
        self._heard = max(self._heard, asked)

    async def __aenter__(self) -> Lease:
        who = this_process()
        await self._ledger.write("register", lambda c: register(c, self.holder, who, self._flow_run))
        self._heard = time.monotonic()
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        # If this fails, the next tick proves that the process is gone and takes over: nothing depends on it.
        await self._ledger.write("leave", lambda c: leave(c, self.holder))


_HOLDING: ContextVar[Lease | None] = ContextVar("HOLDING", default=None)


@contextlib.asynccontextmanager
async def holding(ledger: Ledger, flow_run: str) -> AsyncIterator[Lease]:
    """The lease of this run; a skill called by a tick shares the tick's. Takes over from the dead on the way in."""
    if (outer := _HOLDING.get()) is not None:
        yield outer
        return
    outlive_the_reader()
    async with Lease(ledger, flow_run) as lease:
        token = _HOLDING.set(lease)
        try:
            observer = Observer(lease.holder)
            ended = await ledger.write("look for the dead", observer.look(time.monotonic()))
            if observer.doubts:
                await asyncio.sleep(CONFIRM_SECONDS)
                ended += await ledger.write("look for the dead", observer.look(time.monotonic()))
            lease.taken_from = ended
            if ended:
                log.warning("Took over from %d dead process(es): their unfinished cases go on here.", len(ended))
            yield lease
        finally:
            _HOLDING.reset(token)
