"""A whole house under test, its surroundings, and what can be done to both."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from deployments.tally import _answers
from deployments.tickets import tickets
from tasks.home import PROJECT
from tests.chaos.inbox import OWN
from tests.chaos.witness import LOG
from tests.servers import Postgres, ask_prefect, free_port, wait_for, with_tables

TICKETS = 12
UNENDED = ["RUNNING", "PENDING", "CANCELLING"]
PARTS = {"server": "server start", "worker": "worker start", "warm": "deployments.warm"}


def _since(pid: int) -> int:
    """When a process was started, in the kernel's ticks; numbers tell no age, they begin again at 32,768."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return sys.maxsize  # it has just gone


class Street:
    """A house and its surroundings: database, mail folders, Prefect's API."""

    def __init__(self, folder: Path, db: str, skill: str, inbox: Path | None, watched: bool = True) -> None:
        self.folder, self.port, self._inbox, self._watched = folder, free_port(), inbox, watched
        self.postgres = Postgres() if db == "postgres" else None
        url = self.postgres.create("ledger") if self.postgres else f"sqlite:///{folder / 'ledger.db'}"
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.env = {one: value for one, value in os.environ.items() if not one.startswith(("PREFECT_", "HOLDFAST_"))}
        self.env |= {"HOLDFAST_HOME": str(folder), "HOLDFAST_LEDGER": url, LOG: str(folder / "log")}
        self.engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), pool_pre_ping=True)
        self.log, self.said = folder / "log", folder / "said"
        self.log.touch()
        with_tables(folder / "prefect")
        self.changes: dict[str, object] = {} if skill == OWN else {"skills": [skill.rpartition(":")[2]]}
        self.one_mail_each = skill == OWN  # then it is answer_ticket that works: an answer or a hand-over, never both
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.chaos.house", str(self.port), json.dumps(self.changes)]
        command += ["watched" if self._watched else "alone"]
        with self.said.open("ab") as said:
            heard_before = self.said.stat().st_size
            self.process = subprocess.Popen(command, env=self.env, cwd=PROJECT, stdout=said, stderr=said)

        def up() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"the house ended: {self.said.read_text()[-2000:]}")
            return "Up." in self.said.read_text()[heard_before:]

        wait_for(up, 180, "the house's start")
        found = ask_prefect(self.api, "GET", "/deployments/name/agent-loop/support")
        self.deployment, self.parameters = found["id"], found["parameters"]

    def stop(self) -> None:
        for pid in [self.process.pid, *(pid for pid, _ in self.processes())]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.engine.dispose()
        if self.postgres:
            self.postgres.stop()

    # What there is

    def processes(self) -> list[tuple[int, str]]:
        """Everything that runs in this house except its supervisor."""
        found, mark = [], f"HOLDFAST_HOME={self.folder}\0".encode()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(entry.name)
                if pid != self.process.pid and mark in (entry / "environ").read_bytes():
                    found.append((pid, (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
        return found

    def part(self, name: str) -> int | None:
        """The process of a part of the house, the oldest if it has several: runs are forked from the warm one."""
        if name == "flow":
            query = "SELECT h.pid FROM holders h JOIN agents a ON a.holder = h.id WHERE h.ended = ''"
            return self.ask(query)
        mine = [pid for pid, command in self.processes() if PARTS[name] in command]
        return min(mine, key=_since, default=None)

    def ask(self, query: str) -> Any:
        """The first value of a query, None while the database can not answer."""
        with contextlib.suppress(DBAPIError), self.engine.connect() as connection:
            return connection.execute(text(query)).scalar()
        return None

    def outgoing(self) -> list[Path]:
        parts = [self.folder / box / part for box in ("sent", "handover") for part in ("new", "cur")]
        return [path for folder in parts for path in folder.glob("*")]

    def answered(self) -> Counter[tuple[str, ...]]:
        """Mails by the ticket they are about; for a user's skill also by box and subject, as it may send several."""
        found: Counter[tuple[str, ...]] = Counter()
        for path in self.outgoing():
            about = _answers(path)
            subject = str(BytesParser().parsebytes(path.read_bytes())["Subject"])
            found[(about,) if self.one_mail_each else (about, path.parts[-3], subject)] += 1
        return found

    def unended(self) -> list[dict[str, Any]]:
        """Runs that Prefect shows as under way."""
        states = {"flow_runs": {"state": {"type": {"any_": UNENDED}}}}
        return list(ask_prefect(self.api, "POST", "/flow_runs/filter", json=states))

    # What is done to it

    def deliver(self, number: int) -> list[str]:
        """A dozen tickets that nobody has seen before. Returns their Message-IDs."""
        ids, box = [], self.folder / "inbox"
        for part in ("tmp", "new", "cur"):
            (box / part).mkdir(parents=True, exist_ok=True)
        for place, raw in enumerate(self._mails(number)[:TICKETS]):
            mail = BytesParser().parsebytes(raw)
            for header in ("Message-ID", "In-Reply-To", "References"):
                del mail[header]
            ids.append(f"<{number}.{place}.{time.time_ns()}@chaos.example>")
            mail["Message-ID"] = ids[-1]
            (box / "new" / f"{time.time_ns()}.{place}.chaos").write_bytes(mail.as_bytes())
        return ids

    def _mails(self, number: int) -> list[bytes]:
        if self._inbox is None:
            return [one for one in tickets(number) if len(one) < 100_000]
        files = sorted(path for part in ("new", "cur") for path in (self._inbox / part).glob("*"))
        return [files[(number + place) % len(files)].read_bytes() for place in range(min(TICKETS, len(files)))]

    def tick(self) -> None:
        """Ask for a tick now rather than at the next heartbeat, as soon as the server can be asked."""

        def asked() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                url = f"{self.api}/deployments/{self.deployment}/create_flow_run"
                body = {"parameters": self.parameters, "state": {"type": "SCHEDULED"}}
                httpx.post(url, json=body, timeout=20).raise_for_status()
                return True
            return False

        wait_for(asked, 60, "a new run")

    def kill(self, what: str) -> set[int]:
        """Kill parts of the house at once; the processes whose work in hand that cut off."""
        if what == "all":
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            pids = [pid for pid, _ in self.processes()]
            if self.postgres:
                self.postgres.kill()
        elif what == "database" and self.postgres:
            pids, cut = [], {pid for pid, _ in self.processes()}
            self.postgres.kill()
            self.postgres.start()
            return cut
        else:
            pids = [pid for one in what.split(", ") if (pid := self.part(one)) is not None]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return set(pids)

    def raise_again(self) -> None:
        """After everything was killed, start what no supervisor is left to start."""
        if self.postgres:
            self.postgres.start()
        self.start()
