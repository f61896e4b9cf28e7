"""Chooses by a seed when what is killed, and kills it while the agent is at work."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time

from deployments.alerting import Alerting
from deployments.incident_house import at_work
from deployments.incident_tally import Kill
from deployments.programs import ALERTMANAGER, PROMETHEUS
from deployments.supervisor import Child, House

TICK, WORKER, HOUSE = "the tick", "the worker and all it started", "server, worker and all"
# With the tick's process one of the outside goes as well, by SIGTERM: killed, an Alertmanager forgets its silences.
BESIDE = {
    "the tick, with a restart of Prometheus": PROMETHEUS,
    "the tick, with a restart of Alertmanager": ALERTMANAGER,
}
KINDS = (TICK, WORKER, HOUSE, *BESIDE)
LATER_SECONDS = 0.3  # the pager answers within: some kills come before the answer, some after


class Killer:
    """Kills once, a moment after a certain page is out."""

    def __init__(self, seed: int, actionable: int) -> None:
        dice = random.Random(f"kill {seed}")
        # In the first half: after a late page there may be no more work to be killed in.
        self.what, self._page = KINDS[(seed - 1) % len(KINDS)], dice.randint(1, max(1, actionable // 2))
        self._later, self._due = dice.uniform(0, LATER_SECONDS), 0.0
        self.started, self.at = 0.0, 0.0

    def start(self) -> None:
        """The play begins."""
        self.started = time.time()

    def look(self, pages: int, house: House, alerting: Alerting) -> str:
        """Kill if the moment has come and a case is in hand. Returns what was done, '' for nothing."""
        if self.at or pages < self._page:
            return ""
        self._due = self._due or time.monotonic() + self._later
        tick = at_work() if time.monotonic() >= self._due else None
        if tick is None:
            return ""
        self.at = time.time()
        for child in self._with_it(house):
            child.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(tick, signal.SIGKILL)
        if self.what in BESIDE:
            restarted = alerting.children[BESIDE[self.what]]
            restarted.stop()
            restarted.keep()
        return f"killed with SIGKILL at page {pages}: {self.what} (process {tick})"

    def _with_it(self, house: House) -> list[Child]:
        """What dies with the tick's process."""
        children = [house.worker, house.warm] if self.what in (WORKER, HOUSE) else []
        return [one for one in [*children, house.server if self.what == HOUSE else None] if one]

    def kill(self, back: float | None) -> Kill | None:
        """What was done; None if nothing was, or nothing followed."""
        return Kill(self.what, self.at, back) if self.at and back is not None else None
