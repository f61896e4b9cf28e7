"""What durability costs beside bare Prefect and a hand-written journal, and what it and caching save."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench import savings

PROJECT = Path(__file__).resolve().parents[2]
CASES, CONCURRENCY, MODEL = 47, 8, 0.8
IDEAL = CASES * MODEL / CONCURRENCY  # seconds, if everything but the model were free
SETTLED = 1_000_000
MANY = " ".join(f"step{number}" for number in range(200))
out = Console(highlight=False, width=110)


@contextlib.contextmanager
def prefect() -> Iterator[str]:
    """A Prefect server of our own, with the settings that `up` ships."""
    from deployments.supervisor import SETTINGS, free_port
    from deployments.supervisor import healthy as answers

    with tempfile.TemporaryDirectory() as home:
        port = free_port()
        url = f"http://127.0.0.1:{port}/api"
        env = {**os.environ, **SETTINGS, "PREFECT_HOME": home, "PREFECT_API_URL": url}
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not answers(url):
                time.sleep(0.1)
            yield url
        finally:
            server.kill()
            server.wait()


def child(api: str, what: str, **env: str) -> dict[str, Any]:
    """One measurement in a process of its own, so that none warms another up."""
    with tempfile.TemporaryDirectory() as home:
        seen = {
            **os.environ,
            "PREFECT_API_URL": api,
            "PREFECT_HOME": f"{home}/prefect",
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "HOLDFAST_HOME": home,
            "HOLDFAST_LEDGER": f"sqlite:///{home}/ledger.db",
            "DO_NOT_TRACK": "1",
            **env,
        }
        command = [sys.executable, "-m", "tests.bench.measure", what]
        done = subprocess.run(command, env=seen, cwd=PROJECT, capture_output=True, text=True, timeout=900)
        if done.returncode:
            raise SystemExit(f"{what} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3, help="Each figure is the median of so many, taken in turns.")
    parser.add_argument("--settled", type=int, default=SETTLED)
    given = parser.parse_args()
    figures: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    out.print(f"{figures['machine']}, {figures['date']}, SQLite, median of {given.rounds}")
    with prefect() as api:
        kinds = ("durable", "bare", "journal")
        batch: dict[str, list[float]] = {kind: [] for kind in kinds}
        step: dict[str, list[float]] = {kind: [] for kind in (*kinds, "hit")}
        for _ in range(given.rounds):
            for kind in kinds:
                batch[kind].append(child(api, f"batch-{kind}", MODEL_SECONDS=str(MODEL))["seconds"])
            for kind in kinds:
                found = child(api, f"step-{kind}", MODEL_SECONDS="0", STEPS=MANY)
                step[kind].append(found["miss_ms"])
                if kind == "durable":
                    step["hit"].append(found["hit_ms"])
        figures["thousand"] = child(api, "thousand", MODEL_SECONDS="0")
        figures["settled"] = [child(api, "settled", SETTLED=str(n)) for n in (0, given.settled)]
        figures["savings"] = savings.measure(api, (1, 2, 3))
    figures["batch_seconds"] = {kind: median(values) for kind, values in batch.items()} | {"ideal": IDEAL}
    figures["step_ms"] = {kind: median(values) for kind, values in step.items()}
    _show(figures)
    savings.show(figures["savings"])
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


def _show(figures: dict[str, Any]) -> None:
    batch, step = figures["batch_seconds"], figures["step_ms"]
    empty, full = figures["settled"]
    table = Table(title="What durability costs", title_justify="left")
    for name in ("", "Holdfast", "bare Prefect", "journal by hand", "ratio"):
        table.add_column(name)
    table.add_row(
        f"{CASES} cases x 5 steps, {MODEL} s model, {CONCURRENCY} at once",
        f"{batch['durable']:.2f} s",
        f"{batch['bare']:.2f} s",
        f"{batch['journal']:.2f} s",
        f"{batch['durable'] / IDEAL:.2f} x the ideal {IDEAL:.1f} s",
    )
    table.add_row(
        "one step, not finished before",
        f"{step['durable']:.2f} ms",
        f"{step['bare']:.2f} ms",
        f"{step['journal']:.2f} ms",
        f"{step['durable'] - step['bare']:+.2f} ms on Prefect's own",
    )
    less = f"{step['hit'] - step['bare']:+.2f} ms on Prefect's own"
    table.add_row("one step, finished before", f"{step['hit']:.2f} ms", "", "", less)
    many = figures["thousand"]
    table.add_row("1,000 cases, 16 at once", f"{many['seconds']:.1f} s, {many['settled']} settled", "", "", "")
    for name, key, unit in (("begin + settle a case", "claim_ms", "ms"), ("memory of a tick", "megabytes", "MB")):
        ratio = f"{full[key] / empty[key]:.2f} x an empty ledger's {empty[key]:.2f} {unit}"
        table.add_row(f"{name}, {full['rows']:,} settled", f"{full[key]:.2f} {unit}", "", "", ratio)
    out.print(table)


if __name__ == "__main__":
    main()
