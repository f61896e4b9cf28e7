"""The ledger is locked by a stranger or its server restarts: the batch ends with a reason, and the next run goes on."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

import tasks.lease
import tasks.ledger.database
from tasks.lease import Lease
from tasks.ledger.database import Ledger, migrate
from tasks.ledger.tables import cases, holders
from tests import forked
from tests.conftest import a_postgres, wait_for
from tests.servers import Postgres, thaw
from tests.test_kills import Scene

STRANGER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


def errors(scene: Scene) -> str:
    return (scene.box / "errors").read_text()


def frozen(scene: Scene, doorway: str, how: str = "STOP") -> forked.Forked | subprocess.Popen[bytes]:
    run = scene.start(doorway, how)
    wait_for(lambda: how in scene.log.read_text(), 60, "the doorway")
    return run


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("doorway", ["before:begin:2", "before:store step:3", "after:dispatch:1"])
def test_a_ledger_locked_by_a_stranger_stops_the_work_and_names_the_stranger(
    ledger: Ledger, tmp_path: Path, prefect_server: str, doorway: str
) -> None:
    scene = Scene(ledger, tmp_path, prefect_server)
    scene.env["BUSY"] = "2"
    # A frozen process might itself hold the lock, so only the one thread waits.
    run = frozen(scene, doorway, "WAIT")
    before, finished = scene.lines(), scene.stored()
    command = [sys.executable, "-c", STRANGER, str(ledger.engine.url.database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout is not None and stranger.stdout.readline() == b"locked\n"
        scene.log.with_suffix(".go").touch()
        assert run.wait(110) != 0
        assert f"process {stranger.pid} (python" in errors(scene) and "database is locked" in errors(scene)
        stranger.kill()
    scene.finish()
    scene.judge(before, finished)


@pytest.fixture(scope="module")
def mortal() -> Iterator[Postgres]:
    yield from a_postgres(durable=True)


@pytest.fixture
def on_postgres(mortal: Postgres, tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(mortal.create(f"l{abs(hash(tmp_path)) % 10**10}"))
    migrate(ledger)
    yield ledger
    ledger.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL], ids=["fast", "immediate", "killed"])
@pytest.mark.parametrize("doorway", ["inside:store step:3", "inside:confirm:1", "inside:settle:2"])
def test_a_postgres_that_is_restarted_in_the_middle_of_a_write_costs_no_work(
    mortal: Postgres, on_postgres: Ledger, tmp_path: Path, prefect_server: str, doorway: str, how: signal.Signals
) -> None:
    scene = Scene(on_postgres, tmp_path, prefect_server)
    run = frozen(scene, doorway)
    before, finished = scene.lines(), scene.stored()
    mortal.kill(how)
    mortal.start()
    thaw(run)
    if run.wait(110) != 0:  # where writes shared the broken transaction they are made again, and the batch goes on
        said = errors(scene)
        # Where the restart took longer than half a lease the thawed process must not go on either.
        too_late = "was taken over by another process" in said
        assert too_late or ("The ledger failed while it should" in said and "Postgres at 127.0.0.1" in said), said
    scene.finish()
    scene.judge(before, finished)


def test_a_postgres_that_is_down_for_a_while_is_named_and_nobody_is_blamed_twice(
    mortal: Postgres, on_postgres: Ledger, tmp_path: Path, prefect_server: str
) -> None:
    scene = Scene(on_postgres, tmp_path, prefect_server)
    run = frozen(scene, "before:store step:3")
    before, finished = scene.lines(), scene.stored()
    mortal.kill(signal.SIGINT)
    try:
        thaw(run)
        assert run.wait(110) != 0
        for _ in range(3):  # as often as a case may die
            assert scene.start().wait(110) != 0
    finally:
        mortal.start()
    assert "onnection" in errors(scene)
    deaths = select(cases.c.deaths)
    assert max(on_postgres.read_now("look", lambda c: c.execute(deaths).scalars().all())) <= 1
    scene.finish()
    scene.judge(before, finished)


def test_connections_that_died_with_the_server_are_not_used_again_and_the_lease_goes_on(
    mortal: Postgres, on_postgres: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.lease, "BEAT_SECONDS", 0.05)

    def beats() -> int:
        return on_postgres.read_now("look", lambda c: c.execute(select(holders.c.beat)).scalar_one())

    async def through_a_restart() -> None:
        async with Lease(on_postgres, "") as lease:
            wait_for(lambda: beats() > 1, 30, "a beat")
            mortal.kill(signal.SIGQUIT)
            mortal.start()
            seen = beats()
            wait_for(lambda: beats() > seen, 30, "a beat after the restart")
            assert lease.fresh()

    asyncio.run(through_a_restart())
    ended = on_postgres.read_now("look", lambda c: Counter(c.execute(select(holders.c.ended)).scalars()))
    assert ended == {"left": 1}


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_writer_that_leaves_the_lock_to_nobody_on_a_slow_disk_does_not_silence_the_beat(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.lease, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(tasks.ledger.database, "TRY_SECONDS", 0.01)
    busy = Ledger(ledger_url)
    migrate(busy)
    beats: list[int] = []

    def slow(c: Connection) -> None:
        time.sleep(0.1)
        beats.append(c.execute(select(holders.c.beat)).scalar_one())

    async def flood() -> None:
        async with Lease(busy, ""):
            for _ in range(5):  # the next one always waits already, as with many cases at once
                await asyncio.gather(*(busy.write("write slowly", slow) for _ in range(8)))

    asyncio.run(flood())
    busy.close()
    assert max(beats) >= 3, "it would be given up although it works"
