"""Processes of our own code that are there in a moment: forked from one that has everything imported.

What runs in them is what `python -m MODULE` or `python -c CODE` would run, in a process with its own pid, environment
and signals; only the seconds of importing are spent once for all of them.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from deployments.keeper import ending_at_once

PROJECT = Path(__file__).resolve().parents[1]
PRELOADED = (
    "prefect.main",
    "prefect.flow_engine",
    "prefect.task_engine",
    "prefect.artifacts",
    "anyio._backends._asyncio",
    "encodings.idna",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "alembic.command",
    "anthropic",
    "sklearn",
    "flows.loop",
    "skills.answer_ticket",
    "tasks.channels.maildir",
    "tasks.channels.smtp",
    "tasks.claude",
    "tasks.recovery",
    "tests.practice",
)
LARGEST = 1 << 17


class Forked:
    """A running process, with what the tests use of `subprocess.Popen`."""

    def __init__(self, pid: int, ended: socket.socket) -> None:
        self.pid, self.returncode = pid, None  # type: tuple[int, int | None]
        self._ended = ended

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """As Popen's: the exit status, negative for a signal."""
        if self.returncode is None:
            self._ended.settimeout(timeout or 1e-6 if timeout is not None else None)
            try:
                status = self._ended.recv(8)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0) from None
            self._ended.close()
            assert status, "the process that forks for the tests has gone"
            self.returncode = int.from_bytes(status, "big", signed=True)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def start(
    *words: str,
    code: str = "",
    env: Mapping[str, str] | None = None,
    cwd: Path = PROJECT,
    output: IO[Any] | None = None,
) -> Forked:
    """`python -m words...`, or `python -c code words...`; both streams go to `output`, or to nobody."""
    mine, its = socket.socketpair()
    request = {"words": list(words), "code": code, "env": dict(os.environ if env is None else env), "cwd": str(cwd)}
    with its, open(os.devnull, "w") as nobody:
        out = (output or nobody).fileno()
        socket.send_fds(_parent(os.getpid()), [json.dumps(request).encode()], [out, its.fileno()])
    pid = int.from_bytes(mine.recv(8), "big")
    return Forked(pid, mine)


def run(
    *words: str, code: str = "", env: Mapping[str, str] | None = None, timeout: float = 90
) -> subprocess.CompletedProcess[str]:
    """The same, to its end, with what it printed to either stream."""
    with tempfile.TemporaryFile("w+") as said:
        process = start(*words, code=code, env=env, output=said)
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        said.seek(0)
        return subprocess.CompletedProcess(list(words) or [code], status, said.read(), "")


@functools.lru_cache(maxsize=1)
def _parent(_: int) -> socket.socket:
    """The process that forks, for as long as this one lives; a fork of this one needs one of its own."""
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        command = [sys.executable, "-m", "tests.forked", str(its.fileno())]
        env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1"}
        subprocess.Popen(command, cwd=PROJECT, env=env, pass_fds=[its.fileno()])
    return mine


def serve(asking: socket.socket) -> dict[str, Any]:
    """Fork for whoever asks, and tell them how it ended. Returns in a forked process only: what it is to run."""
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or the first collection of a fork would copy every page
    assert len(os.listdir("/proc/self/task")) == 1, "a thread would be missing in what is forked"
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    watched: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([asking, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            while watched:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                with contextlib.suppress(OSError), watched.pop(pid) as told:
                    told.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, "big", signed=True))
        if asking not in ready:
            continue
        body, descriptors, _, _ = socket.recv_fds(asking, LARGEST, 2)
        if not body:
            for pid in watched:
                os.kill(pid, signal.SIGKILL)
            sys.exit()
        out, told = descriptors[0], socket.socket(fileno=descriptors[1])
        pid = os.fork()
        if pid:
            os.close(out)
            told.sendall(pid.to_bytes(8, "big"))
            watched[pid] = told
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for one in (asking, woken, wake, told, *watched.values()):
            one.close()
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.close(out)
        request: dict[str, Any] = json.loads(body)
        return request


def become(request: dict[str, Any]) -> None:
    """Make of this fork the process that was asked for, and run it."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    from prefect.context import refresh_global_settings_context
    from prefect.logging.configuration import setup_logging

    refresh_global_settings_context()
    setup_logging(incremental=False)
    if request["code"]:
        sys.argv = ["-c", *request["words"]]
        main = type(sys)("__main__")
        sys.modules["__main__"] = main
        exec(compile(request["code"], "<string>", "exec"), vars(main))
    else:
        module, *words = request["words"]
        sys.argv = [module, *words]
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    wanted = serve(socket.socket(fileno=int(sys.argv[1])))
    with ending_at_once():
        become(wanted)
