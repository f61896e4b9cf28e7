"""A Prefect server and a Postgres of our own, for tests that kill."""

from __future__ import annotations

import contextlib
import fcntl
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
from importlib.metadata import version
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


def ask_prefect(api: str, how: str, path: str, **options: Any) -> Any:
    """What Prefect's server answers in the end: while a service of its own holds SQLite's lock it says 503."""

    def answered() -> httpx.Response | None:
        answer = httpx.request(how, f"{api}{path}", timeout=20, **options)
        return None if answer.status_code == 503 else answer.raise_for_status()

    answer = wait_for(answered, 60, f"an answer of Prefect's server to {how} {path}")
    return answer.json() if answer.content else None


def with_tables(home: Path) -> Path:
    """Give a Prefect server that is to live here its tables: to make them takes longer than all else of its start.

    They are made once on this machine for each version of Prefect, which is not imported here: it reads its settings
    then, and the forked level of the chaos suite makes them later.
    """
    made = Path(tempfile.gettempdir()) / f"holdfast-tests-prefect-{version('prefect')}-{os.getuid()}.db"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            with tempfile.TemporaryDirectory() as folder:
                env = {**os.environ, "PREFECT_HOME": folder, "DO_NOT_TRACK": "1"}
                env.pop("PREFECT_API_DATABASE_CONNECTION_URL", None)
                command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
                subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
                shutil.copy(Path(folder) / "prefect.db", made.with_suffix(".new"))
                made.with_suffix(".new").rename(made)
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(made, home / "prefect.db")
    return home


def thaw(process: Any) -> None:
    """Let a process go on that has said that it stops itself: a SIGCONT from before it did would be lost."""
    stat = Path(f"/proc/{process.pid}/stat")
    wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", 60, "the freeze")
    process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def prefect_server_in(home: Path, port: int = 0) -> Iterator[str]:
    """URL of the API of a server whose state is in `home`; on a free port, or the given one."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}/api"
    if not (home / "prefect.db").exists():
        with_tables(home)
    env = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # Nobody asks this server what it recorded of task runs and events; the houses of other tests record both.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
        "PREFECT_API_URL": url,
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = (home / "server.log").open("a")
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
        """End it; its folder, with tens of thousands of files, goes while nobody waits for it."""
        self.kill(signal.SIGQUIT)  # as hard as SIGKILL to its data, and it takes its shared memory along
        subprocess.Popen(["rm", "-rf", self._folder], start_new_session=True)
