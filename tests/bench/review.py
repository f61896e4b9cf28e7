"""A review of a million outcomes: seconds, and the most memory that its process takes."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from tasks.home import PROJECT
from tasks.ledger.database import Ledger, migrate
from tests.audited import history, people_say
from tests.servers import prefect_server_in

WEEKS, CASES = 26, 1_000_000
out = Console(highlight=False, width=118)


def one_review(weeks: int) -> None:
    """In a process of its own: a review of all weeks, and what it took."""
    from flows.review import review
    from tasks.ledger.reviewed import begins, name_of, week_of

    began, now = time.monotonic(), week_of(time.time())
    first = datetime.fromisoformat(name_of(now - weeks)).date()
    asyncio.run(review(agent="desk", since=first, until=datetime.fromtimestamp(begins(now), UTC).date(), audits=200))
    took, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    # Beside other work only the processor's time tells what a machine of one's own would take.
    print(json.dumps({"seconds": took, "cpu": used.ru_utime + used.ru_stime, "megabytes": used.ru_maxrss / 1024}))


def measure(cases: int) -> list[dict[str, float]]:
    """The first review, which draws from every week, and the second, when everything was answered."""
    found = []
    with tempfile.TemporaryDirectory(prefix="review-") as folder, prefect_server_in(Path(folder) / "prefect") as api:
        url = f"sqlite:///{folder}/ledger.db"
        ledger = Ledger(url)
        migrate(ledger)
        truth = history(ledger, WEEKS, cases // WEEKS)
        env = {**os.environ, "HOLDFAST_LEDGER": url, "HOLDFAST_HOME": folder, "PREFECT_API_URL": api}
        env |= {"PREFECT_LOGGING_LEVEL": "ERROR", "PREFECT_HOME": f"{folder}/prefect"}
        for _ in range(2):
            command = [sys.executable, "-m", "tests.bench.review", "--inside", str(WEEKS)]
            said = subprocess.run(command, env=env, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
            found.append(json.loads(said.splitlines()[-1]))
            people_say(ledger, truth)
        ledger.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--inside", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.inside:
        return one_review(given.inside)
    found = measure(given.cases)
    for name, one in zip(("draws from all weeks", "counts what was answered"), found, strict=True):
        out.print(
            f"{given.cases:,} outcomes, the review that {name}: {one['seconds']:.1f} s, {one['cpu']:.1f} s of "
            f"them the processor's; {one['megabytes']:.0f} MB"
        )
    machine = f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, SQLite"
    out.print(f"{machine}, {datetime.now(UTC):%Y-%m-%d}")
    if given.json:
        given.json.write_text(json.dumps(found) + "\n")
    return None


if __name__ == "__main__":
    main()
