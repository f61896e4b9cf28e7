"""A full or read-only disk, a real one: nothing is lost or paid for twice, and work goes on when it is well again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import update

from flows.loop import agent_loop
from tasks import channels
from tasks.errors import BadInput
from tasks.ledger.cases import OUTSIDE_TRIES, Work, begin, try_later
from tasks.ledger.database import Ledger, migrate
from tasks.ledger.tables import cases
from tasks.records import Agent
from tests.conftest import PROJECT, arrival, fill, wait_for
from tests.one_tick import DESK
from tests.servers import thaw
from tests.test_kills import CASES, Scene
from tests.test_loop import CLEAR


class Disk:
    """A file system of a few megabytes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._filler = folder, folder / "filler"

    def fill(self) -> None:
        with self._filler.open("wb", buffering=0) as handle, contextlib.suppress(OSError):
            while handle.write(b"\0" * 4096):
                pass

    def free(self) -> None:
        self._filler.unlink()

    def remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", self.folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"this user may not mount a small file system: {mounted.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def on_disk(disk: Disk) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{disk.folder / 'ledger.db'}")
    migrate(ledger)
    yield ledger
    ledger.close()


def errors(scene: Scene) -> str:
    return (scene.box / "errors").read_text()


def ready_again(ledger: Ledger) -> None:
    ledger.write_now("let time pass", lambda c: c.execute(update(cases).values(not_before=0)))


@pytest.mark.parametrize("doorway", ["before:begin:2", "before:store step:3", "before:confirm:1", "before:settle:2"])
def test_a_ledger_on_a_full_disk_stops_the_work_and_repeats_nothing_when_there_is_space(
    disk: Disk, on_disk: Ledger, tmp_path: Path, prefect_server: str, doorway: str
) -> None:
    scene = Scene(on_disk, tmp_path, prefect_server, concurrency=1)
    run = scene.start(doorway, "STOP")
    wait_for(lambda: "STOP" in scene.log.read_text(), 60, "the doorway")
    before, finished = scene.lines(), scene.stored()
    disk.fill()
    thaw(run)
    assert run.wait(110) != 0
    assert "database or disk is full" in errors(scene) and f"{disk.folder}/ledger.db; free space" in errors(scene)
    disk.free()
    scene.finish()
    scene.judge(before, finished)


def test_a_tick_without_a_ledger_fails_and_is_not_started_again_as_a_crashed_one_would_be(
    disk: Disk, on_disk: Ledger, tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inbox/new").mkdir(parents=True)
    (tmp_path / "inbox/new/one").write_bytes(CLEAR)
    monkeypatch.setenv("HOLDFAST_LEDGER", on_disk.url)
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path))
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        disk.fill()
        ended = asyncio.run(agent_loop(Agent.model_validate(DESK), dry_run=False, return_state=True))
        assert ended.type == StateType.FAILED and "database or disk is full" in (ended.message or ""), ended
        disk.free()
        ended = asyncio.run(agent_loop(Agent.model_validate(DESK), dry_run=False, return_state=True))
    assert ended.name == "Completed" and len(list((tmp_path / "sent/new").iterdir())) == 1


def test_a_full_mail_folder_waits_for_space_and_quarantines_nobody(
    disk: Disk, ledger: Ledger, tmp_path: Path, prefect_server: str
) -> None:
    scene = Scene(ledger, tmp_path, prefect_server, effects={"reply": f"maildir:{disk.folder / 'sent'}"})
    disk.fill()
    for _ in range(4):  # once more than a case may fail
        scene.finish()
        ready_again(ledger)
    before = scene.lines()
    assert len(before) == 2 * CASES and set(before.values()) == {1}, "a finished step was paid for again"
    assert f"The disk of the Maildir {disk.folder}/sent is full" in errors(scene)
    disk.free()
    scene.finish()
    (tmp_path / "sent").symlink_to(disk.folder / "sent")
    scene.judge(before, set(before))


def test_a_case_that_no_channel_takes_for_a_day_is_given_to_a_person(ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, tmp_path, [arrival(1)])
    states = []
    for _ in range(OUTSIDE_TRIES + 1):
        work = ledger.write_now("begin", lambda c: begin(c, 1, "h", "practice", "1", ""))
        if not isinstance(work, Work):
            ledger.write_now("release", lambda c: c.execute(update(cases).values(state="open")))
            work = ledger.write_now("begin", lambda c: begin(c, 1, "h", "practice", "1", ""))
            assert isinstance(work, Work)
        states.append(ledger.write_now("try later", lambda c: try_later(c, work, "no space")))  # noqa: B023
    assert Counter(states) == {"open": OUTSIDE_TRIES, "quarantined": 1}
    assert states.index("quarantined") == OUTSIDE_TRIES - 1, "a release gives another day"


def test_a_read_only_ledger_is_told_before_anything_is_paid_for(
    disk: Disk, on_disk: Ledger, tmp_path: Path, prefect_server: str
) -> None:
    scene = Scene(on_disk, tmp_path, prefect_server)
    on_disk.close()
    disk.remount("ro")
    assert scene.start().wait(110) != 0
    assert scene.lines() == Counter()
    assert f"{disk.folder}/ledger.db; let this user write it" in errors(scene)
    doctor = [sys.executable, "-m", "deployments", "doctor"]
    said = subprocess.run(doctor, env=scene.env, cwd=PROJECT, capture_output=True, text=True, timeout=110)
    assert said.returncode == 1 and f"Let this user write {disk.folder}." in said.stdout, said.stdout + said.stderr
    disk.remount("rw")
    scene.finish()
    scene.judge(Counter(), set())


def test_a_read_only_or_full_mail_folder_is_told_before_anything_is_paid_for(disk: Disk) -> None:
    url = f"maildir:{disk.folder / 'sent'}"
    channels.check(url)
    disk.fill()
    with pytest.raises(BadInput, match=r"is full\. Free space"):
        channels.check(url)
    disk.free()
    disk.remount("ro")
    with pytest.raises(BadInput, match="read-only for this user"):
        channels.check(url)
    disk.remount("rw")
    channels.check(url)
    assert os.access(disk.folder, os.W_OK)
