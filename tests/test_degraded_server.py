"""Prefect's server dies or hangs: work in hand is finished and recorded, a tick that can not go on says so and ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from deployments.supervisor import SETTINGS
from tasks.ledger.database import Ledger
from tasks.ledger.tables import agents, attempts, cases, holders
from tests import forked
from tests.conftest import wait_for
from tests.servers import prefect_server_in, thaw
from tests.test_kills import CASES, Scene
from tests.test_loop import CLEAR, mails

IMPATIENT = {"PREFECT_CLIENT_MAX_RETRIES": "1", "PREFECT_API_REQUEST_TIMEOUT": "2"}  # what bounds the end, made short


class Server:
    """A Prefect server that a test hurts: the session's is frozen and thawed, one of its own is killed and replaced."""

    def __init__(self, url: str, how: str, replace: Callable[[int], object] = bool) -> None:
        self.url, self._how, self._replace = url, how, replace
        port = url.split(":")[2].removesuffix("/api").encode()
        self._port = int(port)
        commands = {path: path.read_bytes().split(b"\0") for path in Path("/proc").glob("[0-9]*/cmdline")}
        groups = {os.getpgid(int(path.parts[2])) for path, words in commands.items() if port in words}
        assert len(groups) == 1
        self._group = groups.pop()

    def hurt(self) -> None:
        os.killpg(self._group, getattr(signal, f"SIG{self._how}"))

    def heal(self) -> None:
        """Bring it back: without it Prefect keeps a process up to 7 s for each event that was not sent."""
        if self._how == "STOP":
            os.killpg(self._group, signal.SIGCONT)
        else:
            self._replace(self._port)


@pytest.fixture(params=["KILL", "STOP"])
def server(request: pytest.FixtureRequest, tmp_path: Path, prefect_server: str) -> Iterator[Server]:
    if request.param == "STOP":
        server = Server(prefect_server, "STOP")
        try:
            yield server
        finally:
            server.heal()
        return
    home = tmp_path / "server"
    home.mkdir()
    with contextlib.ExitStack() as servers:
        url = servers.enter_context(prefect_server_in(home))
        yield Server(url, "KILL", lambda port: servers.enter_context(prefect_server_in(home, port)))


def frozen(scene: Scene, command: forked.Forked | subprocess.Popen[bytes]) -> None:
    try:
        wait_for(lambda: "STOP" in scene.log.read_text(), 60, "the doorway")
    except TimeoutError:
        command.kill()
        raise AssertionError((scene.box / "errors").read_text()) from None


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_server_that_is_gone_neither_stops_nor_repeats_the_batch_in_hand(
    ledger: Ledger, tmp_path: Path, server: Server, prefect_server: str
) -> None:
    scene = Scene(ledger, tmp_path, server.url)
    scene.env |= IMPATIENT
    run = scene.start("before:store step:3", "STOP")
    frozen(scene, run)
    server.hurt()
    thaw(run)
    left = select(holders.c.id).where(holders.c.ended == "left", holders.c.flow_run != "")
    wait_for(lambda: ledger.read_now("look", lambda c: c.execute(left).all()), 60, "the end of the batch's lease")
    server.heal()
    run.wait(110)  # by itself
    before = scene.lines()
    scene.judge(Counter(), set())
    scene.env["PREFECT_API_URL"] = prefect_server
    scene.finish()
    assert scene.lines() == before, "something ran again"


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_tick_that_can_not_begin_its_batch_blames_no_case_and_the_next_one_goes_on(
    ledger: Ledger, tmp_path: Path, server: Server, prefect_server: str
) -> None:
    for part in ("new", "cur", "tmp"):
        (tmp_path / "inbox" / part).mkdir(parents=True)
    (tmp_path / "inbox/new/m1").write_bytes(CLEAR)
    log, errors = tmp_path / "log", (tmp_path / "errors").open("a")
    log.touch()
    env = os.environ | IMPATIENT | {"HOLDFAST_LEDGER": ledger.url, "HOLDFAST_HOME": str(tmp_path)}
    env |= {"PRACTICE_LOG": str(log), "DO_NOT_TRACK": "1", "PREFECT_HOME": str(tmp_path / "prefect")}
    first = env | {"PREFECT_API_URL": server.url, "DOORWAY": "after:decide:1", "SIGNAL": "STOP"}
    tick = forked.start("tests.one_tick", env=first, output=errors)
    wait_for(lambda: "STOP" in log.read_text(), 60, "the doorway")
    server.hurt()
    thaw(tick)

    free = select(agents.c.name).where(agents.c.holder.is_(None))
    wait_for(lambda: ledger.read_now("look", lambda c: c.execute(free).all()), 60, "the end of the agent's lease")
    server.heal()
    assert tick.wait(110) == 1
    said = (tmp_path / "errors").read_text()
    assert "Prefect's server does not answer" in said and "doctor" in said
    case = ledger.read_now("look", lambda c: c.execute(select(cases)).one())
    assert (case.state, case.errors, case.deaths, case.suspect, case.not_before) == ("open", 0, 0, False, 0)
    assert ledger.read_now("look", lambda c: c.execute(select(attempts)).all()) == []
    assert ledger.read_now("look", lambda c: c.execute(select(agents.c.holder, agents.c.fruitless)).one()) == (None, 0)
    later = env | {"PREFECT_API_URL": prefect_server}
    forked.run("tests.one_tick", env=later).check_returncode()
    assert mails(tmp_path / "sent") == 1


def test_up_ships_what_bounds_the_end_of_a_run_without_a_server() -> None:
    # The defaults keep a run for 20 minutes at a server that hangs.
    assert int(SETTINGS["PREFECT_CLIENT_MAX_RETRIES"]) <= 3
    assert float(SETTINGS["PREFECT_API_REQUEST_TIMEOUT"]) <= 15
    assert CASES > 1
