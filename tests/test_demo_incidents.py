"""The second demonstration, with the real Prometheus and Alertmanager: killed in the middle, and ended by hand."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.incident_kill import TICK, Killer
from deployments.programs import PACKAGES
from tests.conftest import PROJECT, wait_for
from tests.servers import with_tables

SEED = 1
CAN_FETCH = all(map(shutil.which, ("apt-get", "dpkg")))
pytestmark = pytest.mark.skipif(
    not (CAN_FETCH or all(map(shutil.which, PACKAGES))),
    reason="no Prometheus, Alertmanager and pushgateway on PATH, and no apt-get to fetch them",
)


def begin(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    home, said = folder / "home", folder / "said"
    with_tables(home / "prefect")
    env = {one: value for one, value in os.environ.items() if not one.startswith(("PREFECT_", "HOLDFAST_"))}
    command = [sys.executable, "-m", "deployments.demo_incidents", "--home", str(home), "--seed", str(SEED), *words]
    with said.open("wb") as output:
        return subprocess.Popen(command, env=env | {"PYTHONUNBUFFERED": "1"}, cwd=PROJECT, stdout=output, stderr=output)


def end(demo: subprocess.Popen[bytes]) -> None:
    """Let it end what it started, if it still can."""
    demo.terminate()
    try:
        demo.wait(100)
    finally:
        demo.kill()
        demo.wait()


def left_of(folder: Path) -> list[str]:
    """Programs of the demonstration that still run: each has its folder among its words, or in its environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(folder / "home") in words and process.name != str(os.getpid()):
            found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


@pytest.mark.timeout(600)
def test_a_kill_amid_pages_calls_nobody_twice_and_forgets_nobody(tmp_path: Path) -> None:
    assert Killer(SEED, 6).what == TICK
    demo = begin(tmp_path, "--json", str(tmp_path / "figures"))
    try:
        status = demo.wait(380)
    finally:
        end(demo)
    said = (tmp_path / "said").read_text()
    assert status == 0, said
    found = json.loads((tmp_path / "figures").read_text())
    assert (found["paged_twice"], found["missed"], found["silences_doubled"], found["silences_left_behind"]) == (0,) * 4
    assert found["paged"] == found["actionable"] + found["needless_pages"] and found["actionable"] >= 5
    assert found["killed"] == TICK and found["runs_left"] == 0 and "killed with SIGKILL" in said
    assert left_of(tmp_path) == []


@pytest.mark.timeout(400)
def test_who_ends_it_by_hand_leaves_nothing_running(tmp_path: Path) -> None:
    demo = begin(tmp_path)
    try:
        wait_for(lambda: "Watch it at" in (tmp_path / "said").read_text() or demo.poll() is not None, 180, "the start")
        assert left_of(tmp_path), "nothing to end"
        demo.send_signal(signal.SIGINT)
        demo.wait(100)
    finally:
        end(demo)
    assert left_of(tmp_path) == [], (tmp_path / "said").read_text()
