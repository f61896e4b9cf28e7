"""The figures of a run of the suite: progress in JSON lines, totals as a table and as JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.oracle import Verdict

SUMS = ("kills", "cases", "duplicates", "lost", "unknown", "steps_run_again", "calls_paid_twice")
MORE = ("calls_cut_short", "quarantined")
MUST_BE_ZERO = ("duplicates", "lost", "steps_run_again", "calls_paid_twice")


class Progress:
    """What was played so far under one setting, so that a run that was ended goes on where it stopped."""

    def __init__(self, path: Path, setting: str) -> None:
        self.path, self.setting = path, setting

    def add(self, verdict: Verdict) -> None:
        """One append, so that several processes may write to the same file."""
        line = json.dumps({"setting": self.setting, **verdict.as_dict()}) + "\n"
        handle = os.open(self.path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def played(self) -> dict[int, Verdict]:
        """By number; a line that was cut off counts as not played."""
        found: dict[int, Verdict] = {}
        if not self.path.exists():
            return found
        for line in self.path.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row.pop("setting", "") == self.setting:
                found[row["number"]] = Verdict(**row)
        return found


def _spread(seconds: list[float]) -> tuple[float | None, float | None]:
    if len(seconds) < 2:
        return (seconds[0], seconds[0]) if seconds else (None, None)
    return round(median(seconds), 3), round(quantiles(seconds, n=20, method="inclusive")[-1], 3)


def figures(verdicts: list[Verdict]) -> dict[str, Any]:
    """Totals. Recovery is that of the full stack, where a supervisor must notice; forked processes follow at once."""
    levels = {level: [one for one in verdicts if one.level == level] for level in ("stack", "each")}
    recovery = {level: [s for one in those for s in one.recovery] for level, those in levels.items()}
    found: dict[str, Any] = {name: sum(getattr(one, name) for one in verdicts) for name in SUMS}
    chosen = _spread(recovery["stack"] or recovery["each"])
    found |= {"recovery_seconds_median": chosen[0], "recovery_seconds_p95": chosen[1]}
    found |= {name: sum(getattr(one, name) for one in verdicts) for name in MORE}
    for level, those in levels.items():
        middle, high = _spread(recovery[level])
        seconds = _spread([one.seconds for one in those])
        found[level] = {
            "scenarios": len(those),
            "kills": sum(one.kills for one in those),
            "recovery_seconds_median": middle,
            "recovery_seconds_p95": high,
            "scenario_seconds_median": seconds[0],
            "scenario_seconds_p95": seconds[1],
        }
    found["failed_scenarios"] = sorted(one.number for one in verdicts if one.wrong)
    return found


def show(out: Console, found: dict[str, Any], title: str) -> None:
    """The totals for people."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key.replace('_', ' ')} {one}" for key, one in value.items())
        bad = (name in MUST_BE_ZERO or name == "failed_scenarios") and value
        table.add_row(name.replace("_", " "), f"[red]{value}[/]" if bad else str(value))
    out.print(table)
