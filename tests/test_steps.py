"""Every failure that Prefect swallows ends in a clear error or a clean repeat, never in a second payment."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import create_engine, select, text, update

import tasks.ledger.database
from tasks.errors import FenceLost, LedgerLost, StepRefused
from tasks.ledger.database import Ledger
from tasks.ledger.tables import attempts, cases, steps
from tests import misfits
from tests.conftest import PROJECT, arrival, fill


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger: Ledger, prefect_server: str):  # type: ignore[no-untyped-def]
    path = tmp_path / "log"
    path.touch()
    monkeypatch.setenv("PRACTICE_LOG", str(path))
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield path


def run(*ids: int) -> None:
    asyncio.run(misfits.misfits(cases=list(ids)))


def again(ledger: Ledger) -> None:
    ledger.write_now("let it try again", lambda c: c.execute(update(cases).values(not_before=0)))


def state(ledger: Ledger, case: int = 1) -> tuple[str, str]:
    row = ledger.read_now("look", lambda c: c.execute(select(cases).where(cases.c.id == case)).one())
    return row.state, row.reason


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("unhashable", "no stable key"),
        ("plain def", "async def"),
        ("refreshed", "refresh_cache"),
        ("object", "JSON can not hold"),
        ("tuple", "something else"),
        ("nan", "something else"),
        ("bad keys", "something else"),
    ],
)
def test_a_step_that_can_not_finish_once_is_refused_and_never_pays_for_its_neighbour_again(
    log: Path, ledger: Ledger, tmp_path: Path, fault: str, says: str
) -> None:
    fill(ledger, tmp_path, [arrival(1, body=fault), arrival(2, body="none")])
    run(1, 2)
    where, why = state(ledger)
    assert where == "open" and says in why and "case 1" in why
    assert state(ledger, 2)[0] == "settled", "a neighbour's fault ended this case"
    again(ledger)
    run(1)
    assert log.read_text().count("first <1@example.com>") == 1, "a finished step was paid for again"


def test_a_case_that_always_fails_is_quarantined_and_does_not_retry_for_ever(
    log: Path, ledger: Ledger, tmp_path: Path
) -> None:
    fill(ledger, tmp_path, [arrival(1, body="unhashable")])
    for _ in range(5):
        run(1)
        again(ledger)
    assert state(ledger)[0] == "quarantined"
    assert len(ledger.read_now("look", lambda c: c.execute(select(attempts)).all())) == 3


def test_a_case_that_calls_exit_ends_itself_and_not_the_tick(log: Path, ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, tmp_path, [arrival(1, body="exits"), arrival(2, body="none")])
    for _ in range(5):
        run(1, 2)
        again(ledger)
    assert state(ledger) == ("quarantined", "SystemExit: a library that thinks it is a program")
    assert state(ledger, 2)[0] == "settled"
    assert log.read_text().count("exits") == 3


def test_a_nested_step_is_stored_although_its_parent_fails(log: Path, ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, tmp_path, [arrival(1, body="outer")])
    for _ in range(2):
        run(1)
        again(ledger)
    assert log.read_text().count("first <1@example.com>") == 1
    assert state(ledger)[1] == "RuntimeError: after the inner step stored 3", "people read of another error"


def test_a_retried_step_is_stored_once_it_succeeds(log: Path, ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, tmp_path, [arrival(1, body="flaky")])
    run(1)
    assert state(ledger)[0] == "settled"
    assert log.read_text().count("flaky") == 3


def test_a_failed_write_ends_the_batch_before_prefect_calls_the_step_finished(
    log: Path, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(ledger, tmp_path, [arrival(1, body="none")])

    def full(c, *_):  # type: ignore[no-untyped-def]
        c.execute(text("INSERT INTO no_such_table VALUES (1)"))

    with monkeypatch.context() as broken, pytest.raises(LedgerLost, match="store step"):
        broken.setattr("tasks.store.store_step", full)
        run(1)
    run(1)
    assert state(ledger)[0] == "settled"


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_locked_database_ends_in_a_clear_error_and_not_in_a_second_payment(
    log: Path, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(ledger, tmp_path, [arrival(1, body="none")])
    monkeypatch.setattr(tasks.ledger.database, "BUSY_SECONDS", 0.2)
    tasks.ledger.database._opened.cache_clear()
    other = create_engine(ledger.url)
    with other.connect() as holder:
        holder.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(LedgerLost, match="locked"):
            run(1)
    tasks.ledger.database._opened.cache_clear()
    run(1)
    assert state(ledger)[0] == "settled" and log.read_text().count("first") == 1


def test_a_writer_with_an_old_fence_can_neither_store_nor_settle(
    log: Path, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(ledger, tmp_path, [arrival(1, body="none")])
    original = misfits.first.fn

    async def overtaken(case):  # type: ignore[no-untyped-def]
        ledger.write_now(
            "take over", lambda c: c.execute(update(cases).values(fence=cases.c.fence + 1, holder="other"))
        )
        return await getattr(original, "__wrapped__", original)(case)

    monkeypatch.setattr(misfits.first, "fn", overtaken)
    with pytest.raises(FenceLost, match="taken over"):
        run(1)
    assert ledger.read_now("look", lambda c: c.execute(select(steps)).all()) == []
    assert state(ledger)[0] == "working", "a late writer settled"


def test_a_class_that_is_gone_is_an_error_and_not_a_bare_dict(log: Path, ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, tmp_path, [arrival(1, body="outer")])
    run(1)
    again(ledger)

    def rename(c):  # type: ignore[no-untyped-def]
        for row in c.execute(select(steps)).all():
            stored = json.loads(row.value)
            stored["result"] = stored["result"].replace("misfits.Kept", "misfits.Gone")
            c.execute(update(steps).values(value=json.dumps(stored).encode()))

    ledger.write_now("rename", rename)
    run(1)
    assert "misfits.Gone, which is gone" in state(ledger)[1] and "redo 1" in state(ledger)[1]
    assert log.read_text().count("first") == 1


def test_a_corrupted_step_row_is_an_error_that_names_the_way_out(log: Path, ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, tmp_path, [arrival(1, body="outer")])
    run(1)
    again(ledger)
    ledger.write_now("corrupt", lambda c: c.execute(update(steps).values(value=b"\x00 not json")))
    run(1)
    assert "can not be read" in state(ledger)[1] and "redo 1" in state(ledger)[1]
    assert log.read_text().count("first") == 1


def test_a_skill_without_a_declared_version_does_not_start(log: Path, ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, tmp_path, [arrival(1, body="none")])
    with pytest.raises(StepRefused, match="declared version"):
        asyncio.run(misfits.undeclared(cases=[1]))
    assert state(ledger)[0] == "open"


def test_a_step_outside_of_each_is_refused(log: Path) -> None:
    from prefect import flow

    @flow(name="loose", version="1")
    async def loose() -> int:
        return await misfits.plain_step()  # type: ignore[attr-defined]

    from prefect import task

    from skills import ONCE_PER_CASE

    @task(cache_policy=ONCE_PER_CASE)
    async def alone() -> int:
        return 1

    misfits.plain_step = alone  # type: ignore[attr-defined]
    with pytest.raises(StepRefused, match="outside of each"):
        asyncio.run(loose())


def test_a_skill_run_as_a_script_stores_nothing_that_others_can_not_read(
    log: Path, ledger: Ledger, tmp_path: Path, prefect_server: str
) -> None:
    import os

    fill(ledger, tmp_path, [arrival(1, body="none")])
    script = tmp_path / "script.py"
    script.write_text(
        (PROJECT / "tests/misfits.py").read_text() + "\nimport asyncio\nasyncio.run(misfits(cases=[1]))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "PREFECT_API_URL": prefect_server}
    subprocess.run([sys.executable, str(script)], env=env, check=True, capture_output=True, timeout=60)
    assert "can not import" in state(ledger)[1] and "as a module" in state(ledger)[1]
    run(1) if again(ledger) is None else None
    assert state(ledger)[0] == "settled"


def test_the_same_set_or_model_makes_the_same_key_in_every_process() -> None:
    code = (
        "from tasks.store import _plain; from tests.misfits import Kept; import json;"
        "print(json.dumps(_plain({'s': {'b','a','c'}, 'm': Kept(words=1), 'l': (1, None, 2.5)}), sort_keys=True))"
    )
    seen = set()
    for seed in ("1", "2", "3"):
        env = {"PYTHONHASHSEED": seed, "PATH": ""}
        ran = subprocess.run(
            [sys.executable, "-c", code], cwd=PROJECT, env=env, capture_output=True, text=True, check=True
        )
        seen.add(ran.stdout)
    assert len(seen) == 1
