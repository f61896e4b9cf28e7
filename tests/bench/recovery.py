"""From a SIGKILL to the first step that is finished again, in a whole house, and where the time goes."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from deployments.supervisor import POOL, healthy
from tasks.home import PROJECT
from tests.chaos.inbox import OWN
from tests.chaos.street import Street
from tests.chaos.witness import Line, heard
from tests.servers import wait_for

out = Console(highlight=False, width=130)
DELIVERIES = 4  # of a dozen tickets: enough that much is left at the kill
# What is killed, whether `up` watches, what it is called.
SCENARIOS = {
    "flow": ("flow", True, "the flow's process; its worker lives (`up`)"),
    "worker": ("worker", True, "worker and flow; another worker lives (`up`)"),
    "all": ("all", True, "everything, and `up` again"),
    "plain flow": ("flow", False, "the flow's process; plain workers"),
    "plain worker": ("worker", False, "worker and flow; plain workers, only `recover`"),
}
SPANS = ("seen", "planned", "started", "running", "step")


class Measured(Street):
    """A street whose house has a second worker, which nobody watches."""

    def __init__(self, folder: Path, db: str, watched: bool) -> None:
        super().__init__(folder, db, OWN, None, watched)
        self.second: subprocess.Popen[bytes] | None = None

    def another_worker(self) -> None:
        """Have a worker more than the house's own, so that one is left when the other is killed."""
        workers = [pid for pid, command in self.processes() if "worker start" in command and parent(pid) != 1]
        if len(workers) > 1:
            return
        words = ["worker", "start", "--pool", POOL, "--type", "process", "--name", f"second-{time.time_ns()}"]
        env = dict(
            one.split("=", 1) for one in Path(f"/proc/{workers[0]}/environ").read_text().split("\0") if "=" in one
        )
        command = [sys.executable, "-m", "prefect", *words]
        with (self.folder / "second.log").open("ab") as log:
            before = log.tell()
            self.second = subprocess.Popen(command, env=env, cwd=PROJECT, stdout=log, stderr=log)
        wait_for(lambda: "started!" in (self.folder / "second.log").read_text()[before:], 60, "the second worker")

    def kill_worker_and_flow(self) -> None:
        """Kill the tick's process and, before it, the worker that started it."""
        flow = self.part("flow")
        mark = f"PREFECT__FLOW_RUN_ID={self.working_run()}\0".replace("-", "").encode()
        started = [
            pid
            for pid, _ in self.processes()
            if mark in Path(f"/proc/{pid}/environ").read_bytes().replace(b"-", b"") and pid != flow
        ]
        workers = {pid for pid, command in self.processes() if "worker start" in command}
        mine = next(parent(pid) for pid in started or [flow or 0] if parent(pid) in workers)
        for pid in (mine, *started, flow):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid or 0, signal.SIGKILL)

    def working_run(self) -> str:
        """The flow run that holds the agent's cases."""
        query = "SELECT h.flow_run FROM attempts a JOIN holders h ON h.id = a.holder ORDER BY a.begun DESC LIMIT 1"
        return str(self.ask(query) or "")

    def states(self, run: str) -> dict[str, float]:
        """When a run entered each of its states, by name, in seconds of the wall clock."""
        asked = time.monotonic()
        found = httpx.get(f"{self.api}/flow_run_states/", params={"flow_run_id": run}, timeout=90).raise_for_status()
        if (took := time.monotonic() - asked) > 5:
            out.print(f"[yellow]Prefect's server took {took:.0f} s to answer a question[/yellow]")
        return {one["name"]: datetime.fromisoformat(one["timestamp"]).timestamp() for one in found.json()}


def parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def unended(street: Measured) -> list[dict[str, Any]] | None:
    """Runs under way in Prefect's eyes; None if its server gives no answer, which is measured elsewhere."""
    with contextlib.suppress(httpx.HTTPError):
        return street.unended()
    return None


def once(street: Measured, what: str, number: int) -> dict[str, float]:
    """One kill among half-finished work. Seconds from it, or from the server's health where everything was killed."""
    if what == "worker" or not street._watched:
        street.another_worker()
    ids = [one for _ in range(DELIVERIES) for one in street.deliver(number)]
    old = len(street.outgoing())
    street.tick()
    wait_for(lambda: len(street.outgoing()) > old + number % 20, 120, "work that can be interrupted")
    before = street.working_run()
    known = wait_for(lambda: unended(street), 180, "Prefect's word on what is under way") or []
    under_way = {one["id"] for one in known}
    size = street.log.stat().st_size
    if what == "worker":
        street.kill_worker_and_flow()
    else:
        street.kill(what)
    killed, offset = time.monotonic(), time.time() - time.monotonic()
    healthy_at: list[float] = []
    if what == "all":
        watch = threading.Thread(target=_note_health, args=(street.api, healthy_at), daemon=True)
        watch.start()
        street.raise_again()

    def first(word: str) -> Line | None:
        lines = heard(street.log.read_bytes()[size:].decode())
        return next((one for one in lines if one.word == word and one.at > killed), None)

    back = wait_for(lambda: first("done"), 180, "the first step after the kill")
    begun = first("run") or back
    run = street.working_run()
    assert run != before, "the killed run worked on"
    states, dead = street.states(run), street.states(before)
    zero = healthy_at[0] if healthy_at else killed
    at = {
        "seen": dead.get("Crashed", states["Pending"]) - offset,
        "planned": states.get("Scheduled", states.get("Late", states["Pending"])) - offset,
        "started": states["Pending"] - offset,
        "running": states["Running"] - offset,
        "step": begun.at,
    }
    answers = set(ids)
    wait_for(lambda: answers <= {one[0] for one in street.answered()}, 180, "an answer to every ticket")
    # Later ones are heartbeats, which come all the time.
    over = lambda: (now := unended(street)) is not None and not under_way & {one["id"] for one in now}  # noqa: E731
    wait_for(over, 180, "the end of every killed run in Prefect's eyes")
    twice = {one: count for one, count in street.answered().items() if count > 1}
    assert not twice, f"answered twice: {twice}"
    return {"seconds": back.at - zero, **{name: moment - zero for name, moment in at.items()}}


def _note_health(api: str, at: list[float]) -> None:
    while not healthy(api):
        time.sleep(0.05)
    at.append(time.monotonic())


def measure(name: str, count: int, db: str) -> list[dict[str, float]]:
    what, watched, title = SCENARIOS[name]
    found = []
    with tempfile.TemporaryDirectory(prefix="recovery-", ignore_cleanup_errors=True) as folder:
        street = Measured(Path(folder), db, watched)
        try:
            once(street, "flow", 0)  # the first tick of a house makes the ledger
            for number in range(1, count + 1):
                found.append(once(street, what, number))
                out.print(f"{title} {number}: {found[-1]['seconds']:.2f} s")
        finally:
            street.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--db", default="sqlite", choices=["sqlite", "postgres"])
    parser.add_argument("--only", nargs="*", default=[*SCENARIOS], choices=[*SCENARIOS])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    figures: dict[str, Any] = {name: measure(name, given.n, given.db) for name in given.only}
    table = Table(title=f"Seconds from SIGKILL, median of {given.n}, {given.db}", title_justify="left")
    columns = ("seen dead", "new run", "process starts", "flow runs", "step begins", "step done", "worst")
    for column in ("killed", *columns):
        table.add_column(column)
    for name, runs in figures.items():
        middle = [statistics.median(one[span] for one in runs) for span in (*SPANS, "seconds")]
        worst = max(one["seconds"] for one in runs)
        table.add_row(SCENARIOS[name][2], *(f"{one:.1f}" for one in (*middle, worst)))
    out.print(table)
    if "all" in figures:
        out.print("'everything' counts from the moment at which the new server is healthy.")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
