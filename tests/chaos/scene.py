"""One scenario's ledger, mail folders and cases, and the forked processes that work them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from prefect import Flow
from sqlalchemy import Engine, func, select

from tasks.channels.message import message_id
from tasks.ledger import migrations
from tasks.ledger.again import release, resolve
from tasks.ledger.database import connect
from tasks.ledger.holders import alive
from tasks.ledger.tables import cases, effects, steps
from tasks.records import Agent, Arrival
from tests.chaos import counted
from tests.chaos.bare import run_now
from tests.chaos.doorway import Doors
from tests.chaos.oracle import Mail, mails_in
from tests.chaos.witness import LOG, Line, heard
from tests.conftest import enter
from tests.servers import Postgres

KINDS = ("reply", "hand_over", "page", "silence", "note")  # of effects, of all agents that are played
PATIENCE = 60.0  # seconds for a process that has nothing in its way


class Ledgers:
    """Fresh ledgers as copies of one that was migrated once, on SQLite or on a Postgres server."""

    def __init__(self, folder: Path, postgres: Postgres | None) -> None:
        self._folder, self.postgres = folder, postgres
        self._template = f"t{uuid.uuid4().hex[:10]}"
        url = postgres.create(self._template) if postgres else f"sqlite:///{folder / self._template}"
        engine = connect(url)
        migrations.upgrade(engine)
        engine.dispose()

    def new(self) -> str:
        name = f"l{uuid.uuid4().hex[:10]}"
        if self.postgres:
            return self.postgres.create(name, self._template)
        shutil.copyfile(self._folder / self._template, self._folder / name)
        return f"sqlite:///{self._folder / name}"

    def drop(self, url: str) -> None:
        name = url.rpartition("/")[2]
        if self.postgres:
            self.postgres.ask(f"DROP DATABASE {name} WITH (FORCE)")
            return
        for path in self._folder.glob(f"{name}*"):
            path.unlink()

    def sever(self, url: str) -> None:
        """Cut all connections to a Postgres ledger, whatever they are in the middle of."""
        assert self.postgres is not None
        name = url.rpartition("/")[2]
        self.postgres.ask(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{name}'")


class Scene:
    """Cases entered as a tick would, and what is outside of their ledger."""

    def __init__(
        self,
        ledgers: Ledgers,
        flow: Flow[..., None],
        arrivals: list[Arrival],
        channel: str,
        concurrency: int,
        sink: tuple[int, Path] | None = None,
    ) -> None:
        self.flow, self.ledgers, self.arrivals, self.channel = flow, ledgers, arrivals, channel
        self.box = Path(tempfile.mkdtemp(prefix="chaos-"))
        self.log, self.errors = self.box / "log", self.box / "errors"
        self.log.touch()
        self.address = f"desk@{self.box.name.replace('_', '0').lower()}{uuid.uuid4().hex[:6]}.example.com"
        self.url = ledgers.new()
        self._sink = sink
        urls = {kind: self._channel_url(kind) for kind in KINDS}
        agent = Agent(
            name="desk",
            source="maildir:/inbox",
            skills=[flow.name],
            effects=urls,
            concurrency=concurrency,
            address=self.address,
        )
        self.engine: Engine = connect(self.url)
        with self.engine.connect() as connection, connection.begin():
            enter(connection, agent, arrivals)
        self.children: set[int] = set()

    def _channel_url(self, kind: str) -> str:
        if self.channel == "smtp":
            assert self._sink is not None
            return f"smtp+plain://127.0.0.1:{self._sink[0]}"
        return f"{self.channel}:{self.box / kind}"

    def close(self, keep: bool = False) -> None:
        for pid in list(self.children):
            self.end(pid)
        self.engine.dispose()
        if not keep:
            self.ledgers.drop(self.url)
            shutil.rmtree(self.box, ignore_errors=True)

    def ids(self) -> list[int]:
        return list(range(1, len(self.arrivals) + 1))

    def environment(self) -> dict[str, str]:
        return {LOG: str(self.log), "HOLDFAST_LEDGER": self.url, "HOLDFAST_HOME": str(self.box)}

    # Processes

    def fork(self, *doors: str, elsewhere: bool = False, gate: int | None = None) -> int:
        """Start a process that works all cases once; with doors it dies or freezes at, on this or another machine."""

        def work() -> None:
            if gate is not None:
                os.read(gate, 1)
            counted.add_to(sys.modules["tasks.channels"], counted)
            if elsewhere:
                _move_to_another_machine()
            Doors(*doors).install()
            run_now(self.flow, self.ids())

        return self._fork(work)

    def _fork(self, work: Callable[[], None]) -> int:
        self.engine.dispose()  # a child must not inherit a connection
        if pid := os.fork():
            self.children.add(pid)
            return pid
        status = 1
        try:
            os.environ |= self.environment()
            errors = os.open(self.errors, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
            os.dup2(errors, 1)
            os.dup2(errors, 2)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def wait(self, pid: int, seconds: float = PATIENCE, frozen: bool = False) -> int:
        """Exit status of a process, minus the signal that ended it; `frozen` also waits for one that stops."""
        until, pause = time.monotonic() + seconds, 0.0005
        while time.monotonic() < until:
            found, status = os.waitpid(pid, os.WNOHANG | (os.WUNTRACED if frozen else 0))
            if found:
                if os.WIFSTOPPED(status):
                    return -signal.SIGSTOP
                self.children.discard(pid)
                return os.waitstatus_to_exitcode(status)
            time.sleep(pause)
            pause = min(pause * 1.5, 0.01)
        self.end(pid)
        raise TimeoutError(f"process {pid} did not end within {seconds:.0f} s")

    def lives(self, pid: int) -> bool:
        """Whether a child is still there, frozen or not; collects its status if not."""
        if pid in self.children and os.waitpid(pid, os.WNOHANG)[0]:
            self.children.discard(pid)
        return pid in self.children

    def end(self, pid: int) -> bool:
        """Kill a process and collect it; False if it had ended by itself."""
        if pid not in self.children:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.children.discard(pid)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL

    # What is outside, and what the ledger believes

    def mails(self) -> Counter[Mail]:
        return mails_in(self._outgoing(), self.address)

    def _outgoing(self) -> list[Path]:
        if self._sink is not None and self.channel == "smtp":
            return [self._sink[1] / self.address.partition("@")[2]]
        return [self.box / kind for kind in KINDS]

    def mail_files(self) -> list[Path]:
        return [path for folder in self._outgoing() for path in (folder / "new").glob("*")]

    def lines(self) -> list[Line]:
        return heard(self.log.read_text())

    def states(self) -> Counter[str]:
        with self.engine.connect().execution_options(reads=True) as c, c.begin():
            found = c.execute(select(cases.c.state, func.count()).group_by(cases.c.state)).all()
        return Counter({state: count for state, count in found})

    def behind_parked(self) -> int:
        """Open cases that nobody may begin yet: an earlier one of their conversation waits for a person."""
        first = cases.alias("first")
        earlier = (first.c.source == cases.c.source, first.c.thread == cases.c.thread, first.c.id < cases.c.id)
        held_up = select(first.c.id).where(*earlier, first.c.state == "parked").exists()
        with self.engine.connect().execution_options(reads=True) as c, c.begin():
            return c.execute(select(func.count()).where(cases.c.state == "open", held_up)).scalar_one()

    def stored(self) -> dict[str, int]:
        with self.engine.connect().execution_options(reads=True) as c, c.begin():
            return {row.key: row.fence for row in c.execute(select(steps.c.key, steps.c.fence))}

    def held(self) -> int:
        with self.engine.connect().execution_options(reads=True) as c, c.begin():
            return len(alive(c))

    def person(self) -> tuple[int, int]:
        """Somebody looks outside and says what became of unknown effects, and releases what is quarantined.

        Returns how many effects were unknown and how many cases were quarantined.
        """
        heads = [path.read_bytes().replace(b"\r\n", b"\n") for path in self.mail_files()]
        with self.engine.connect() as c, c.begin():
            doubts = c.execute(select(effects).where(effects.c.state == "unknown")).all()
            for doubt in doubts:
                named = f"\nMessage-ID: {message_id(doubt.key)}\n".encode()
                resolve(c, doubt.case, any(named in head for head in heads), "a person")
            stuck = c.execute(select(cases.c.id).where(cases.c.state == "quarantined")).scalars().all()
            for case in stuck:
                release(c, case, "a person")
        return len(doubts), len(stuck)


def _move_to_another_machine() -> None:
    """This process shares the ledger with the others and nothing else: it can neither see nor kill them."""
    import tasks.process

    tasks.process._here = lambda: ("elsewhere", "another-boot", "another-space")  # type: ignore[assignment]
