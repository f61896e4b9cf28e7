"""Killed or frozen at every doorway, judged by the mail folder and by a log outside the ledger."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from email import message_from_bytes
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from sqlalchemy import func, select

from tasks.ledger.database import Ledger
from tasks.ledger.tables import cases, effects, steps
from tests import forked
from tests.conftest import PROJECT, arrival, fill, free_port, wait_for

CASES = 4
DOORWAYS = ["store step", "send"]  # with Prefect's engine around them; tests/chaos has every one, without it


class Scene:
    """One inbox of cases, and processes that work it."""

    def __init__(self, ledger: Ledger, box: Path, api: str, **settings: object) -> None:
        self.ledger, self.box, self.log = ledger, box, box / "log"
        self.log.touch()
        self.env = {
            **os.environ,
            "HOLDFAST_LEDGER": ledger.url,
            "PRACTICE_LOG": str(self.log),
            "PREFECT_API_URL": api,
            "DO_NOT_TRACK": "1",
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "PREFECT_HOME": str(box / "prefect"),
        }
        fill(ledger, box, [arrival(number) for number in range(1, CASES + 1)], **settings)

    def start(
        self, doorway: str = "", how: str = "KILL", lease: str = "", prefix: tuple[str, ...] = ()
    ) -> forked.Forked | subprocess.Popen[bytes]:
        run = ["tests.one_run", *map(str, range(1, CASES + 1))]
        env = {**self.env, "DOORWAY": doorway, "SIGNAL": how, "LEASE": lease}
        with (self.box / "errors").open("a") as errors:
            if not prefix:
                return forked.start(*run, env=env, output=errors)
            command = [*prefix, sys.executable, "-m", *run]
            return subprocess.Popen(command, env=env, cwd=PROJECT, stdout=errors, stderr=errors)

    def lines(self) -> Counter[str]:
        return Counter(self.log.read_text().splitlines())

    def sent(self) -> int:
        return sum(1 for part in ("new", "cur") for _ in (self.box / "sent" / part).glob("*"))

    def stored(self) -> set[str]:
        rows = self.ledger.read_now("look", lambda c: c.execute(select(steps.c.case, steps.c.step)).all())
        return {f"{row.step.rpartition('.')[2]} <{row.case}@example.com>" for row in rows}

    def finish(self, tries: int = 1) -> None:
        for _ in range(tries):
            run = self.start()
            assert run.wait(60) == 0, (self.box / "errors").read_text()

    def judge(self, before: Counter[str], finished: set[str]) -> None:
        now = self.lines()
        again = {line for line in finished if now[line] != before[line]}
        assert again == set(), f"finished steps ran again: {again}"
        assert self.sent() == CASES, "lost or answered twice"
        states = self.ledger.read_now(
            "look", lambda c: c.execute(select(cases.c.state, func.count()).group_by(cases.c.state)).all()
        )
        assert [tuple(one) for one in states] == [("settled", CASES)]
        kinds = self.ledger.read_now("look", lambda c: set(c.execute(select(effects.c.state)).scalars()))
        assert kinds == {"confirmed"}


@pytest.fixture
def scene(ledger: Ledger, tmp_path: Path, prefect_server: str) -> Scene:
    return Scene(ledger, tmp_path, prefect_server)


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("doorway", DOORWAYS)
def test_a_kill_at_this_doorway_repeats_nothing_and_loses_nothing(scene: Scene, doorway: str, side: str) -> None:
    killed = scene.start(f"{side}:{doorway}:2")
    assert killed.wait(60) == -signal.SIGKILL, (scene.box / "errors").read_text()
    before, finished = scene.lines(), scene.stored()
    scene.finish()
    scene.judge(before, finished)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace injects kills at the database's own syncs")
@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("sync", [5, 14])
def test_a_kill_at_a_sync_of_the_database_repeats_nothing(scene: Scene, sync: int) -> None:
    inject = f"inject=fdatasync,fsync:signal=SIGKILL:when={sync}"
    killed = scene.start(prefix=("strace", "-f", "-qq", "-e", "trace=fdatasync,fsync", "-e", inject, "-o", "/dev/null"))
    killed.wait(90)
    before, finished = scene.lines(), scene.stored()
    scene.finish()
    scene.judge(before, finished)


@pytest.mark.parametrize("doorway", ["before:store step:2", "before:send:2", "inside:settle:1"])
def test_a_frozen_process_that_thaws_late_does_nothing_twice(scene: Scene, doorway: str) -> None:
    frozen = scene.start(doorway, "STOP", lease="2")
    try:
        wait_for(lambda: "STOP" in scene.log.read_text(), 30, "the freeze")
        before, finished = scene.lines(), scene.stored()

        def others_took_over() -> bool:
            scene.env["LEASE"] = "2"
            run = scene.start(lease="2")
            run.wait(60)
            return scene.sent() >= CASES

        wait_for(others_took_over, 60, "the takeover")
        frozen.send_signal(signal.SIGCONT)
        frozen.wait(60)
        scene.finish()
        scene.judge(before, finished)
    finally:
        frozen.kill()
        frozen.wait()


def test_two_processes_on_one_inbox_share_it_without_a_double(scene: Scene) -> None:
    both = [scene.start(), scene.start()]
    assert [run.wait(60) for run in both] == [0, 0], (scene.box / "errors").read_text()
    scene.finish()
    scene.judge(Counter(), set())
    assert set(scene.lines().values()) == {1}


class Heard:
    """What a mail server was told, the one witness outside."""

    def __init__(self) -> None:
        self.mails: list[bytes] = []

    async def handle_DATA(self, _: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self.mails.append(envelope.content)
        return "250 OK"


@pytest.mark.parametrize("sent", [True, False])
def test_a_mail_that_nobody_can_look_for_is_not_sent_again_until_a_person_says_so(
    ledger: Ledger, tmp_path: Path, prefect_server: str, sent: bool
) -> None:
    heard = Heard()
    server = Controller(heard, hostname="127.0.0.1", port=free_port())
    server.start()
    try:
        channel = {"reply": f"smtp+plain://127.0.0.1:{server.port}"}
        scene = Scene(ledger, tmp_path, prefect_server, effects=channel, concurrency=1)
        killed = scene.start("after:send:2" if sent else "before:send:2")
        assert killed.wait(60) == -signal.SIGKILL
        scene.finish(2)
        assert len(heard.mails) == CASES - (0 if sent else 1)
        row = ledger.read_now("look", lambda c: c.execute(select(cases).where(cases.c.state == "parked")).one())
        assert "look outside" in row.reason
        words = ("deployments", "resolve", str(row.id), "--sent" if sent else "--not-sent")
        forked.run(*words, env=scene.env).check_returncode()
        scene.finish()
        assert len(heard.mails) == CASES == len({message_from_bytes(one)["Message-ID"] for one in heard.mails})
    finally:
        server.stop()
