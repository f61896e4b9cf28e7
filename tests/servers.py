"""A Prefect server and a Postgres of our own, for tests that kill."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

T = TypeVar("T")
INITDB = shutil.which("initdb") or next(
    (str(found) for found in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], T], seconds: float, what: str) -> T:
    """Await a condition by looking at it often; its value when it becomes true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.02)
    raise TimeoutError(f"{what} did not happen within {seconds} s")


@contextlib.contextmanager
def prefect_server_in(home: Path) -> Iterator[str]:
    """URL of the API of a server whose state is in `home`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    env = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "500",
        "PREFECT_API_URL": url,
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = (home / "server.log").open("w")
    server = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)

    def healthy() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{url}/health").status_code == 200
        return False

    try:
        wait_for(healthy, 90, f"Prefect's server ({home / 'server.log'})")
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


class Postgres:
    """A server in a folder of its own that can be killed and started again; needs INITDB."""

    def __init__(self, durable: bool = True) -> None:
        """Without `durable` it survives kills and no power cut, and makes and drops databases much faster."""
        assert INITDB is not None
        self._options = [] if durable else ["-c", "fsync=off", "-c", "full_page_writes=off"]
        self._binaries = Path(INITDB).resolve().parent
        self._folder, self._port = Path(tempfile.mkdtemp(prefix="holdfast-pg-")), free_port()
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:  # Postgres refuses to run as root
            owner = pwd.getpwnam("postgres")
            self._user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
        self._quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "cwd": "/"}
        initdb = [self._binaries / "initdb", "-D", self._folder / "data", "-U", "holdfast", "-A", "trust"]
        subprocess.run(initdb, check=True, **self._quiet, **self._user)
        self.url = f"postgresql://holdfast@127.0.0.1:{self._port}"
        self._engine = create_engine(
            f"{self.url}/postgres".replace("postgresql:", "postgresql+psycopg:"),
            isolation_level="AUTOCOMMIT",
            poolclass=NullPool,  # forked children use it too
        )
        self.start()

    def start(self) -> None:
        """Bring it up; after a kill it recovers by itself."""
        serve = [self._binaries / "postgres", "-D", self._folder / "data", "-p", str(self._port)]
        serve += ["-h", "127.0.0.1", "-k", self._folder, "-c", "max_connections=200", *self._options]
        self._server = subprocess.Popen(serve, start_new_session=True, **self._quiet, **self._user)
        wait_for(self._answers, 60, "Postgres")

    def _answers(self) -> bool:
        with contextlib.suppress(DBAPIError):
            return self.ask("select 1") == 1
        return False

    def ask(self, statement: str) -> Any:
        """The first value of a statement of the administrator's, None without rows."""
        with self._engine.connect() as connection:
            found = connection.execute(text(statement))
            return found.scalar() if found.returns_rows else None

    def create(self, name: str, template: str = "template1") -> str:
        """A new database as a copy of another that nobody is connected to; its URL."""
        self.ask(f"CREATE DATABASE {name} TEMPLATE {template}")
        return f"{self.url}/{name}"

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End all its processes at once, as a power cut would, except that the disk's cache survives.

        SIGINT and SIGQUIT are what `pg_ctl stop` sends for `-m fast` and `-m immediate`.
        """
        if how is signal.SIGKILL:
            os.killpg(self._server.pid, how)
        else:
            os.kill(self._server.pid, how)
        self._server.wait()

    def stop(self) -> None:
        """End it and remove its folder."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
