"""A clone of its own with a warm process, and programs that it starts as Prefect's worker starts runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.conftest import PROJECT, wait_for

ORDINARY = "Invalid flow run id"  # what Prefect's engine says without one: proof that it was started


class Installation:
    """A clone of its own, so that code can change in it, with a warm process and programs to run."""

    def __init__(self, folder: Path, lean: bool = True, **files: str) -> None:
        self.clone = folder / "clone"
        for room in ("deployments", "tasks", "skills", "flows"):
            shutil.copytree(PROJECT / room, self.clone / room, ignore=shutil.ignore_patterns("__pycache__"))
        (self.clone / "tests").mkdir()
        for one in ("tests/__init__.py", "tests/one_warm.py", "prefect.yaml"):
            shutil.copy(PROJECT / one, self.clone / one)
        if lean:
            shutil.rmtree(self.clone / "skills/answer_ticket")  # the embedded model takes seconds to import
        for name, text in files.items():
            (self.clone / "skills" / f"{name}.py").write_text(text)
        home = folder / ("a folder whose name makes the socket's address longer than 107 bytes " * 2).strip()
        home.mkdir()
        self.socket, self.log = home / "warm.sock", folder / "warm.log"
        self.env = {one: value for one, value in os.environ.items() if not one.startswith(("PREFECT_", "HOLDFAST_"))}
        self.env |= {"PYTHONPATH": str(self.clone), "HOLDFAST_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
        self.process = self.start()

    def start(self, module: str = "tests.one_warm") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", module, str(self.socket)]
        before = self.said().count("ready on") + self.said().count("starts nothing")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.clone, env=self.env, stdout=log, stderr=log)
        wait_for(lambda: self.said().count("ready on") + self.said().count("starts nothing") > before, 60, "warm")
        return self.process

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def program(self, text: str) -> Path:
        path = self.clone.parent / f"program{len(list(self.clone.parent.glob('program*')))}.py"
        path.write_text(textwrap.dedent(text))
        return path

    def run(self, text: str, **env: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-S", "-E", str(self.clone / "deployments/start.py"), str(self.socket)]
        return subprocess.Popen(
            command,
            cwd=self.clone,
            env={**self.env, "PROGRAM": str(self.program(text)), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def line(run: subprocess.Popen[str]) -> str:
    assert run.stdout is not None
    return run.stdout.readline().strip()


def living(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


WAIT = "import os, time\nprint(os.getpid(), os.getppid(), flush=True)\ntime.sleep(600)"
