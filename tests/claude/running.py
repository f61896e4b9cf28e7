"""The fake in a process of its own, as tests start, steer and read it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.claude.log import Entry, read
from tests.servers import free_port, wait_for

PROJECT = Path(__file__).resolve().parents[2]


class Claude:
    """`url` is what ANTHROPIC_BASE_URL should be; it stays the same when the server is stopped and started again."""

    def __init__(self, folder: Path, script: dict[str, Any] | None = None, brain: str = "") -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "claude.jsonl"
        self._output = folder / "claude.out"
        self._command = [sys.executable, "-m", "tests.claude", "--port", str(self.port), "--log", str(self.log)]
        if script is not None:
            (folder / "script.json").write_text(json.dumps(script))
            self._command += ["--script", str(folder / "script.json")]
        if brain:
            self._command += ["--brain", brain]
        self.start()

    def start(self) -> None:
        with self._output.open("a") as output:
            how: dict[str, Any] = {"stdout": output, "stderr": output, "cwd": PROJECT, "start_new_session": True}
            self._server = subprocess.Popen(self._command, **how)
        wait_for(self._healthy, 60, f"the fake of Claude ({self._output})")

    def _healthy(self) -> bool:
        if self._server.poll() is not None:
            raise RuntimeError(f"the fake of Claude ended: {self._output.read_text()}")
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", trust_env=False).status_code == 200
        return False

    def stop(self) -> None:
        """Kill it: its log stays, its faults, cache and batches do not."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()

    def control(self, **order: Any) -> dict[str, Any]:
        """Say the words of POST /control, e.g. faults=[...]; the state after them."""
        return self._state(httpx.post(f"{self.url}/control", json=order, trust_env=False))

    def state(self) -> dict[str, Any]:
        """What is in flight, which faults wait, which batches have ended."""
        return self._state(httpx.get(f"{self.url}/control", trust_env=False))

    def fail(self, kind: str, **how: Any) -> None:
        """Let the next request that fits go wrong; the words are those of `faults.Fault`."""
        self.control(faults=[{"kind": kind, **how}])

    def entries(self, kind: str = "") -> list[Entry]:
        return [one for one in read(self.log) if kind in ("", one.kind)]

    def _state(self, answer: httpx.Response) -> dict[str, Any]:
        if answer.is_error:
            raise ValueError(answer.text)
        found: dict[str, Any] = answer.json()
        return found


@contextlib.contextmanager
def claude_server_in(folder: Path, script: dict[str, Any] | None = None, brain: str = "") -> Iterator[Claude]:
    """A healthy fake that keeps its log in `folder`, and is killed at the end."""
    claude = Claude(folder, script, brain)
    try:
        yield claude
    finally:
        claude.stop()
