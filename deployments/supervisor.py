"""Starts server, worker and doorbell, restarts what dies, and sees within seconds when a tick's process is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import httpx

from deployments import doorbell
from deployments.enter import enter_what_changed
from deployments.pool import can_fork, make_pool
from tasks.errors import BadInput, LedgerLost
from tasks.home import PROJECT, home
from tasks.ledger import the_ledger
from tasks.ledger.agents import drain_all
from tasks.ledger.holders import Observer, alive

POOL = "agents"
LOOK_SECONDS = 1.0
SWEEP_SECONDS = 15.0  # between two looks at all of Prefect's runs that never ended
ASK_SECONDS = 10.0  # between two questions to the server whether it is there
SILENT = 6  # of them in a row without an answer, and a server that did answer before hangs
STARTING = 18  # the same for one that never did
RESTART_SECONDS = (0.5, 2.0, 10.0, 30.0)
SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_COLORS": "false",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_WORKER_PREFETCH_SECONDS": "1",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # Or a run whose server is gone or hangs would try to report its end for up to 20 minutes.
    "PREFECT_CLIENT_MAX_RETRIES": "3",
    "PREFECT_API_REQUEST_TIMEOUT": "15",
    # Client and server are of one installation, and this server asks for no token: questions that every run would put.
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
    # SQLite's server chokes on one transaction for each event; these write them together.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "500",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "500",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
    # A task run costs about 12 kB: keep a week of events and a month of flow runs.
    "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "7 days",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": '["events","flow_runs"]',
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": "30 days",
}


def environment(port: int) -> dict[str, str]:
    """What server, worker and runs see; an address given by the user stays."""
    return {
        **os.environ,
        **{name: value for name, value in SETTINGS.items() if name not in os.environ},
        "HOLDFAST_HOME": str(home()),
        "PREFECT_HOME": os.environ.get("PREFECT_HOME") or str(home() / "prefect"),
        "PREFECT_API_URL": os.environ.get("PREFECT_API_URL") or f"http://127.0.0.1:{port}/api",
        "PYTHONPATH": str(PROJECT),
    }


class Child:
    """A program that is kept running; its output goes to a file in the house's folder."""

    def __init__(self, name: str, command: list[str], env: dict[str, str]) -> None:
        self.name, self._command, self._env = name, command, env
        self.deaths, self._again, self._since = 0, 0.0, 0.0
        self.process: subprocess.Popen[bytes] | None = None

    def keep(self) -> str:
        """Start it if it should run and does not. Returns what happened, '' for nothing."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is None:
            if now - self._since > 60:
                self.deaths = 0
            return ""
        if now < self._again:
            return ""
        said = f"{self.name} died (status {self.process.returncode}), started again" if self.process else ""
        self._again = now + RESTART_SECONDS[min(self.deaths, len(RESTART_SECONDS) - 1)]
        self.deaths += 1
        self._since = now
        (home() / "logs").mkdir(parents=True, exist_ok=True)
        with (home() / "logs" / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                env=self._env,
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_default_signals,
            )
        return said

    def stop(self, seconds: float = 8.0) -> None:
        """Ask it to end, then make it."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """End it with all that it started."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def _default_signals() -> None:
    # A shell that starts programs with `&` lets them ignore SIGINT; Prefect's worker turns SIGTERM into SIGINT.
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_DFL)


def healthy(api: str) -> bool:
    """Whether Prefect's server answers."""
    try:
        return httpx.get(f"{api}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


class House:
    """Server, pool, worker and deployments of one folder."""

    def __init__(self, port: int = 4200) -> None:
        self.env = environment(port)
        bell = self.env.pop(doorbell.SETTING, "")
        if bell:
            doorbell.port_and_token(bell)
        self.api = self.env["PREFECT_API_URL"]
        for name in (*SETTINGS, "HOLDFAST_HOME", "PREFECT_HOME", "PREFECT_API_URL"):
            os.environ[name] = self.env[name]  # the client in this process talks to the same server
        prefect, worker = ([sys.executable, "-m", f"deployments.{name}"] for name in ("server", "worker"))
        serve = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
        work = ["worker", "start", "--pool", POOL, "--type", "process", "--name", f"holdfast-{port}"]
        self.server, self.worker = Child("server", prefect + serve, self.env), Child("worker", worker + work, self.env)
        # Runs are forked from it, and start the ordinary way whenever it is not there.
        warm = [sys.executable, "-m", "deployments.warm", str(home() / "warm.sock")]
        self.warm = Child("warm", warm, self.env) if can_fork() else None
        ring = [sys.executable, "-m", "deployments.doorbell"]
        # Only it sees the token: neither runs nor what they start.
        self.doorbell = Child("doorbell", ring, self.env | {doorbell.SETTING: bell}) if bell else None
        self._observer, self._sweep = Observer(), 0.0
        self._ask, self._answered, self._silent = 0.0, 0, 0
        self._gone: list[Any] = []
        """Holders found dead whose runs Prefect was not told of yet."""

    @property
    def ui(self) -> str:
        return self.api.removesuffix("/api")

    def start_server(self, seconds: float = 90.0) -> None:
        """Bring up the server with its pool and deployments; BadInput that names the log when it does not come."""
        if healthy(self.api):
            raise BadInput(f"A server answers at {self.ui} already. Stop it, or choose another --port.")
        server = self.server
        server.keep()
        if self.warm:
            self.warm.keep()  # it needs no server, and both take seconds to load
        from tasks import recovery  # noqa: F401 (also for that: it brings Prefect's client, which this process needs)

        until = time.monotonic() + seconds
        while not healthy(self.api):
            if time.monotonic() > until or (server.process and server.process.poll() is not None):
                raise BadInput(f"Prefect's server did not start; see {home() / 'logs/server.log'}.")
            time.sleep(0.2)
        make_pool(POOL, home() / "warm.sock" if self.warm else None)
        enter_what_changed(self.env)

    def start_worker(self) -> None:
        """From here on ticks run."""
        self.worker.keep()
        if self.doorbell:
            self.doorbell.keep()

    def look(self) -> list[str]:
        """Restart what died and let the next tick of a dead one start at once. Returns what happened, for people."""
        children = (self.server, self.warm, self.worker, self.doorbell)
        happened = [said for child in children if child and (said := child.keep())]
        happened += self._end_a_server_that_hangs()
        try:
            if self._silent:
                self._gone += self._ended(True)  # whoever asks a server that hangs hangs with it
            else:
                happened += self.recover()
        except (LedgerLost, httpx.HTTPError, OSError) as why:
            happened.append(f"recovery could not look: {why}")
        return happened

    def _end_a_server_that_hangs(self) -> list[str]:
        """Kill a server that long answered nothing; the next look starts it again."""
        process, now = self.server.process, time.monotonic()
        if process is None or now < self._ask:
            return []
        self._ask = now + ASK_SECONDS
        if healthy(self.api):
            self._answered, self._silent = process.pid, 0
            return []
        self._silent += 1
        # Counted in questions and not in seconds: after a pause of the whole machine one look proves nothing.
        if self._silent < (SILENT if self._answered == process.pid else STARTING):
            return []
        said, self._silent = f"server did not answer {self._silent} times in a row, killed", 0
        self.server.kill()
        return [said]

    def recover(self, go_on: bool = True) -> list[str]:
        """End the leases of the dead at once, and what Prefect only believes to be alive every few seconds."""
        # Prefect reads its settings where it is first imported, so not before this house has made them.
        from tasks.recovery import reconcile, repair_runs

        ledger, now = the_ledger(), time.monotonic()
        self._gone += self._ended(go_on)
        if not self._gone and go_on and now < self._sweep:
            return []
        self._sweep = now + SWEEP_SECONDS / 5  # sooner again, should this one fail
        said = asyncio.run(repair_runs(ledger, self._gone, here=True, go_on=go_on))
        self._gone = []
        said += asyncio.run(reconcile(ledger))
        self._sweep = now + SWEEP_SECONDS
        return said

    def _ended(self, go_on: bool) -> list[Any]:
        # Read first: a look at nothing must not write. What ends by our wish is blamed for nothing.
        ledger = the_ledger()
        if not ledger.read_now("look for the living", alive):
            return []
        self._observer.gone = "dead" if go_on else "stopped"
        return ledger.write_now("look for the dead", self._observer.look(time.monotonic()))

    def stop(self) -> None:
        """End the worker and what it ran, let Prefect show that, and end the server."""
        if self.doorbell:
            self.doorbell.stop()
        self.worker.stop()
        if self.warm:
            self.warm.stop()  # returns when the runs are gone whose starters ended with the worker
        with contextlib.suppress(LedgerLost, httpx.HTTPError, OSError):
            self.recover(go_on=False)
        self.server.stop()


def wait_until_drained(seconds: float) -> bool:
    """Ask every agent to begin nothing new and hand back between two steps; False if work is still in hand then."""
    ledger, until = the_ledger(), time.monotonic() + seconds
    ledger.write_now("drain", lambda c: drain_all(c, True))
    while ledger.read_now("look for the living", alive):
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def stopping() -> list[int]:
    """Turn SIGTERM and SIGINT into a list that is no longer empty."""
    asked: list[int] = []
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda number, _: asked.append(number))
    return asked


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
