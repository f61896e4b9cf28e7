"""A finished step whose row is gone is seen before the case is worked, and is not paid for again unasked."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, delete, func, insert, select, text, update

from tasks.errors import FenceLost
from tasks.ledger.cases import NotBegun, Work, begin
from tasks.ledger.database import Ledger, migrate
from tasks.ledger.steps import store_step
from tasks.ledger.tables import cases, steps
from tests import forked
from tests.conftest import arrival, fill
from tests.test_kills import CASES, Scene


def command(scene: Scene, *words: str) -> None:
    forked.run("deployments", *words, env=scene.env).check_returncode()


@pytest.fixture
def scene(ledger: Ledger, tmp_path: Path, prefect_server: str) -> Scene:
    return Scene(ledger, tmp_path, prefect_server, concurrency=1)


@pytest.mark.parametrize("way_out", ["redo", "release"])
def test_a_deleted_step_is_not_silently_paid_for_again(scene: Scene, way_out: str) -> None:
    killed = scene.start("before:settle:2")
    assert killed.wait(60) == -signal.SIGKILL, (scene.box / "errors").read_text()
    gone = (steps.c.case == 2, steps.c.step.like("%count"))
    row = scene.ledger.read_now("look", lambda c: c.execute(select(steps).where(*gone)).one())
    scene.ledger.write_now("lose a row", lambda c: c.execute(delete(steps).where(*gone)))
    before = scene.lines()
    scene.finish()
    found = scene.ledger.read_now("look", lambda c: c.execute(select(cases).where(cases.c.id == 2)).one())
    assert found.state == "quarantined" and "1 of 2 finished steps are missing" in found.reason
    assert "redo 2" in found.reason and "release 2" in found.reason
    assert scene.lines()["count <2@example.com>"] == before["count <2@example.com>"] == 1
    assert scene.sent() == CASES, "the others wait for nobody"
    if way_out == "release":
        scene.ledger.write_now("restore the backup", lambda c: c.execute(insert(steps).values(row._asdict())))
    command(scene, way_out, "2")
    scene.finish()
    assert scene.sent() == CASES, "answered twice"
    assert scene.lines()["count <2@example.com>"] == (2 if way_out == "redo" else 1)
    states = scene.ledger.read_now("look", lambda c: set(c.execute(select(cases.c.state)).scalars()))
    assert states == {"settled"}


def hold(c: Connection, case: int = 1) -> Work | NotBegun:
    return begin(c, case, "h", "practice", "1", "")


def count(c: Connection) -> tuple[int, int]:
    counted = c.execute(select(cases.c.stored).where(cases.c.id == 1)).scalar_one()
    return counted, c.execute(select(func.count()).where(steps.c.case == 1)).scalar_one()


def test_the_count_is_that_of_the_rows_whatever_was_refused(ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, tmp_path, [arrival(1)])
    work = ledger.write_now("begin", hold)
    assert isinstance(work, Work)
    store = partial(store_step, work=work, step="s", value=b"v", seconds=0.0)
    assert ledger.write_now("store", partial(store, key="a")) == b"v"
    assert ledger.write_now("store", lambda c: store_step(c, work, "a", "s", b"later", 0.0)) == b"v"
    ledger.write_now("store", partial(store, key="b"))
    assert ledger.read_now("look", count) == (2, 2)
    ledger.write_now("take over", lambda c: c.execute(update(cases).values(fence=cases.c.fence + 1)))
    with pytest.raises(FenceLost, match="store step s"):
        ledger.write_now("store", partial(store, key="c"))
    assert ledger.read_now("look", count) == (2, 2)


def test_steps_stored_by_a_process_of_the_older_version_do_not_stop_a_case(ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, tmp_path, [arrival(1)])
    row = dict(case=1, key="a", step="s", value=b"v", fence=1, seconds=0.0, at=0.0)
    ledger.write_now("store without a count", lambda c: c.execute(insert(steps).values(row)))
    work = ledger.write_now("begin", hold)
    assert isinstance(work, Work) and set(work.steps) == {"a"}
    assert ledger.read_now("look", count) == (1, 1)


def test_an_older_ledger_counts_what_it_has_when_it_is_migrated(ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, tmp_path, [arrival(1), arrival(2)])
    rows = [dict(case=1, key=k, step="s", value=b"v", fence=1, seconds=0.0, at=0.0) for k in "ab"]
    engine = create_engine(ledger.engine.url)
    with engine.begin() as c:
        c.execute(insert(steps), rows)
        c.execute(text("DROP INDEX cases_senders"))
        for newer in ("stored", "wants", "wants_tokens", "sender"):
            c.execute(text(f"ALTER TABLE cases DROP COLUMN {newer}"))
        c.execute(text("DROP INDEX outcomes_of_agent"))
        c.execute(text("DROP INDEX markers_unfinished"))
        c.execute(text("DROP INDEX effects_waiting"))
        for newer in ("ticks", "rung"):
            c.execute(text(f"ALTER TABLE agents DROP COLUMN {newer}"))
        c.execute(text("ALTER TABLE markers DROP COLUMN finished"))
        reviewing = ("rules", "lessons", "proposals", "releases", "thresholds", "reviews", "audits")
        for newer in ("approvals", "notes", "signals", "later", "batches", "rates", "spending", *reviewing):
            c.execute(text(f"DROP TABLE {newer}"))
        c.execute(text("UPDATE alembic_version SET version_num = '0002'"))
    engine.dispose()
    migrate(ledger)
    assert ledger.read_now("look", count) == (2, 2)
    found = select(cases.c.stored).where(cases.c.id == 2)
    assert ledger.read_now("look", lambda c: c.execute(found).scalar_one()) == 0
