"""What replays and caching save, in tokens and USD that a fake of Claude counted, against an agent without either.

The baseline is the same skill code on the same tickets, in a real process that is really killed at the same mail:
without checkpoints, so the process after the kill gets an empty ledger and asks for the whole batch again, and
without caching, so the marks for the provider's cache are taken out of its requests. Neither side has a batch lane.
Both pay for the calls that were under way at the kill.

The month is simulated: days of as many tickets, with the cost that a batch was measured to have on each side, and
restarts at drawn tickets of a day's batch. A restart that meets no batch costs neither side anything.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from deployments.tally import outgoing
from deployments.tickets import deliver, tickets
from tasks.home import PROJECT
from tasks.prices import NANO, prices
from tasks.records import Usage
from tests.claude.cost import used
from tests.claude.log import Entry
from tests.claude.running import Claude, claude_server_in
from tests.servers import prefect_server_in, wait_for

TICKETS, DAYS, RESTARTS = 47, 30, 13  # three a week
SLOWEST = 0.5  # seconds of an answer; without any, no call would be under way at a kill
out = Console(highlight=False, width=118)


class Cost(NamedTuple):
    """What calls came to; numbers of a simulated month need not be whole."""

    calls: float = 0
    tokens: float = 0
    cached: float = 0
    """Of `tokens`: read from the provider's cache."""
    usd: float = 0

    def __add__(self, other: Cost) -> Cost:  # type: ignore[override]
        return Cost(*(mine + its for mine, its in zip(self, other, strict=True)))

    def times(self, factor: float) -> Cost:
        return Cost(*(factor * one for one in self))

    @property
    def anew(self) -> float:
        return self.tokens - self.cached


class Batch(NamedTuple):
    """A batch of tickets that was killed once, as the server billed it."""

    mails: int
    """That were out when the process was gone."""
    first: list[Entry]
    second: list[Entry]
    """Of the process after the kill."""


class Side(NamedTuple):
    """One side of the comparison."""

    cost: Cost
    uncached: Cost
    """The same calls, had nothing been cached."""


def uncached(used: Usage) -> Usage:
    """The same tokens, had the provider kept none of them."""
    prompt = used.input_tokens + used.cache_write_5m + used.cache_read
    return Usage(input_tokens=prompt, output_tokens=used.output_tokens)


def cost(entries: Iterable[Entry], cached: bool = True) -> Cost:
    found = Cost()
    for entry in entries:
        one = used(entry) if cached else uncached(used(entry))
        usd = prices().cost(entry.model, one) / NANO
        found += Cost(1, one.prompt + one.output_tokens, one.cache_read, usd)
    return found


def side(entries: Sequence[Entry]) -> Side:
    return Side(cost(entries), cost(entries, cached=False))


def killed_once(api: str, folder: Path, seed: int, plain: bool) -> Batch:
    """Work the demo's tickets in a process, kill it where the demo with this seed does, and let another one follow."""
    dice = random.Random(seed)
    kill_at = dice.randint(5, 35)
    deliver(tickets(seed), folder / "inbox")
    with claude_server_in(folder, brain="tests.claude.support:answer") as server:
        delays = [{"kind": "slow", "delay": round(dice.uniform(0.1, SLOWEST), 3)} for _ in range(6 * TICKETS)]
        server.control(faults=delays)
        first = tick(api, folder, server, "ledger-1", plain)
        wait_for(lambda: outgoing(folder) >= kill_at or first.poll() is not None, 120, f"mail {kill_at}")
        first.send_signal(signal.SIGKILL)
        if first.wait() != -signal.SIGKILL:
            raise SystemExit(f"The tick ended before the kill:\n{(folder / 'said').read_text()[-3000:]}")
        mails = outgoing(folder)
        wait_for(lambda: not server.state()["in_flight"], 60, "the end of the calls that were under way")
        before = bills(server)
        ledger = "ledger-2" if plain else "ledger-1"
        if tick(api, folder, server, ledger, plain).wait(240) or settled(folder / f"{ledger}.db") != TICKETS:
            raise SystemExit(f"The second tick left work undone:\n{(folder / 'said').read_text()[-3000:]}")
        return Batch(mails, before, bills(server)[len(before) :])


def tick(api: str, folder: Path, server: Claude, ledger: str, plain: bool) -> subprocess.Popen[bytes]:
    env = {
        **os.environ,
        "PREFECT_API_URL": api,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "DO_NOT_TRACK": "1",
        "HOLDFAST_HOME": str(folder),
        "HOLDFAST_LEDGER": f"sqlite:///{folder}/{ledger}.db",
        "ANTHROPIC_API_KEY": "sk-bench-0000",
        "ANTHROPIC_BASE_URL": server.url,
        "PLAIN": "1" if plain else "",
    }
    with (folder / "said").open("ab") as said:
        command = [sys.executable, "-m", "tests.bench.desk"]
        return subprocess.Popen(command, env=env, cwd=PROJECT, stdout=said, stderr=said)


def bills(server: Claude) -> list[Entry]:
    return [one for one in server.entries("message") if one.billed]


def settled(ledger: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as kept:
        return int(kept.execute("SELECT count(*) FROM cases WHERE state = 'settled'").fetchone()[0])


def once_each(batch: Batch) -> tuple[list[Entry], list[Entry]]:
    """The answers that a batch was made of, and what the kill made it pay beside them."""
    last = {one.hash: one for one in [*batch.first, *batch.second]}
    kept = {one.request_id for one in last.values()}
    return list(last.values()), [one for one in [*batch.first, *batch.second] if one.request_id not in kept]


def measure(api: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Both scenarios; figures of (a) are sums over the seeds."""
    ours: list[Batch] = []
    theirs: list[Batch] = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two, ThreadPoolExecutor(2) as pool:
            durable = pool.submit(killed_once, api, Path(one), seed, False)
            baseline = pool.submit(killed_once, api, Path(two), seed, True)
            ours.append(durable.result())
            theirs.append(baseline.result())
    parts = [once_each(one) for one in ours]
    killed = (
        side([entry for one in theirs for entry in (*one.first, *one.second)]),
        side([entry for one in ours for entry in (*one.first, *one.second)]),
    )
    count = 1 / len(seeds)
    per = {
        "whole batch": cost(entry for one in theirs for entry in one.second).times(count),
        "under way, baseline": cost(e for one in theirs for e in one.first if not e.answered).times(count),
        "batch": cost(entry for needed, _ in parts for entry in needed).times(count),
        "batch, uncached": cost((entry for needed, _ in parts for entry in needed), cached=False).times(count),
        "kill": cost(entry for _, wasted in parts for entry in wasted).times(count),
        "kill, uncached": cost((entry for _, wasted in parts for entry in wasted), cached=False).times(count),
    }
    dice = random.Random(f"month {seeds[0]}")
    met = sorted((dice.randint(1, DAYS), dice.randint(1, TICKETS - 1)) for _ in range(RESTARTS))
    lost = sum(ticket for _, ticket in met) / TICKETS  # batches that were done and forgotten
    baseline_month = per["whole batch"].times(DAYS + lost) + per["under way, baseline"].times(RESTARTS)
    month = (
        Side(baseline_month, baseline_month),
        Side(
            per["batch"].times(DAYS) + per["kill"].times(RESTARTS),
            per["batch, uncached"].times(DAYS) + per["kill, uncached"].times(RESTARTS),
        ),
    )
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "prices": f"{prices().checked}",
        "models": sorted({entry.model for one in ours for entry in one.first}),
        "seeds": list(seeds),
        "killed_at_mail": {"Holdfast": [one.mails for one in ours], "baseline": [one.mails for one in theirs]},
        "per_batch": {name: one._asdict() for name, one in per.items()},
        "restarts": met,
        "lost_batches": lost,
        "killed": compare(*killed),
        "month": compare(*month),
    }


def compare(baseline: Side, ours: Side) -> dict[str, Any]:
    """Percentages of the baseline; the causes add up to what is saved."""
    all_of_it = baseline.cost.usd
    return {
        "baseline": baseline.cost._asdict(),
        "ours": ours.cost._asdict(),
        "ours_uncached": ours.uncached._asdict(),
        "usd_less": 100 * (1 - ours.cost.usd / all_of_it),
        "tokens_less": 100 * (1 - ours.cost.tokens / baseline.cost.tokens),
        "anew_less": 100 * (1 - ours.cost.anew / baseline.cost.anew),
        "replay": 100 * (all_of_it - ours.uncached.usd) / all_of_it,
        "caching": 100 * (ours.uncached.usd - ours.cost.usd) / all_of_it,
        "batch_lane": 0.0,
    }


def show(figures: dict[str, Any]) -> None:
    """Print both tables with their arithmetic; the last line is the lower of both, rounded down."""
    out.print(
        f"\n{figures['machine']}, {figures['date']}; {', '.join(figures['models'])} at the prices of "
        f"{figures['prices']}. The model is a fake, tokens are counted by length (4 characters each)."
    )
    at = figures["killed_at_mail"]
    killed = f"(a) {TICKETS} tickets, killed at mail {at['Holdfast']} (baseline {at['baseline']}), sums of these"
    month = f"(b) a month, simulated: {DAYS} x {TICKETS} tickets, {RESTARTS} restarts at drawn tickets of a day's batch"
    for title, found in ((killed, figures["killed"]), (month, figures["month"])):
        table = Table(title=title, title_justify="left")
        for name in ("", "calls", "tokens", "of them from the cache", "USD"):
            table.add_column(name)
        for name, key in (("no checkpoints, no caching", "baseline"), ("Holdfast", "ours")):
            one = Cost(**found[key])
            table.add_row(name, f"{one.calls:,.0f}", f"{one.tokens:,.0f}", f"{one.cached:,.0f}", f"{one.usd:.4f}")
        table.add_row(
            "less",
            f"{100 * (1 - found['ours']['calls'] / found['baseline']['calls']):.1f} %",
            f"{found['tokens_less']:.1f} % (read anew: {found['anew_less']:.1f} %)",
            "",
            f"{found['usd_less']:.1f} %",
        )
        out.print(table)
        _explain(found)
    per = {name: one["usd"] for name, one in figures["per_batch"].items()}
    out.print(
        f"The month: baseline ({DAYS} + {figures['lost_batches']:.2f} batches lost) x {per['whole batch']:.5f} + "
        f"{RESTARTS} x {per['under way, baseline']:.5f} under way; Holdfast {DAYS} x {per['batch']:.5f} + {RESTARTS} x "
        f"{per['kill']:.5f} under way."
    )
    out.print("Tokens from the cache are read all the same, only cheaper: replays alone make their number less.")
    out.print(f"{int(min(figures['killed']['usd_less'], figures['month']['usd_less']))}% less")


def _explain(found: dict[str, Any]) -> None:
    before, middle, after = (found[name]["usd"] for name in ("baseline", "ours_uncached", "ours"))
    out.print(
        f"  replay      {before:.4f} - {middle:.4f} = {before - middle:.4f} USD, {found['replay']:.1f} % of the "
        "baseline: the calls that were not made again"
    )
    out.print(
        f"  caching     {middle:.4f} - {after:.4f} = {middle - after:.4f} USD, {found['caching']:.1f} %: the same "
        "calls, their common beginning read from the cache"
    )
    out.print("  batch lane  not used: 0 %")
    out.print(f"  together    1 - {after:.4f} / {before:.4f} = {found['usd_less']:.1f} % less")


def main() -> None:
    parser = argparse.ArgumentParser(description="What replays and caching save.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, prefect_server_in(Path(home)) as api:
        figures = measure(api, given.seeds)
    show(figures)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
