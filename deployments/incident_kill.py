"""Chooses by a seed what is killed and when, and kills it while the agent is at work."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time

from deployments.incident_house import at_work
from deployments.incident_tally import Kill
from deployments.supervisor import Child, House

# What dies at once with the tick's process: nothing, all that starts ticks, or Prefect's server as well.
KINDS = ("the tick", "the worker and all it started", "server, worker and all")
LATER_SECONDS = 0.3  # the pager answers within: some kills come before the answer, some after


class Killer:
    """Kills once, a moment after a certain page is out."""

    def __init__(self, seed: int, actionable: int) -> None:
        dice = random.Random(f"kill {seed}")
        self.what, self._page = dice.choice(KINDS), dice.randint(1, max(1, actionable - 1))
        self._later, self._due = dice.uniform(0, LATER_SECONDS), 0.0
        self.started, self.at = 0.0, 0.0

    def start(self) -> None:
        """The play begins."""
        self.started = time.time()

    def look(self, pages: int, house: House) -> str:
        """Kill if the moment has come and a tick is at work. Returns what was done, '' for nothing."""
        if self.at or pages < self._page:
            return ""
        self._due = self._due or time.monotonic() + self._later
        tick = at_work() if time.monotonic() >= self._due else None
        if tick is None:
            return ""
        self.at = time.time()
        killed: list[Child | None] = []
        if self.what != KINDS[0]:
            killed += [house.worker, house.warm]
        if self.what == KINDS[2]:
            killed.append(house.server)
        for child in killed:
            if child:
                child.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(tick, signal.SIGKILL)
        return f"killed {self.what} with SIGKILL (process {tick} and {sum(map(bool, killed))} more) at page {pages}"

    def kill(self, back: float | None) -> Kill | None:
        """What was done; None if nothing was, or nothing followed."""
        return Kill(self.what, self.at, back) if self.at and back is not None else None
