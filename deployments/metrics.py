"""Pushes what the episodes do to their metrics, second by second, beside everything else."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Self

from deployments.alerting import Alerting
from deployments.episodes import NEVER, Episode, by_service, exposition

PUSH_SECONDS = 0.4  # more often than Prometheus looks


class Metrics:
    """A thread that pushes from `with` to its end."""

    def __init__(self, alerting: Alerting, episodes: Sequence[Episode]) -> None:
        self._alerting, self._of = alerting, by_service(episodes)
        self._mended, self._ended = NEVER, threading.Event()
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._push, name="metrics")

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def mend(self) -> None:
        """From here on everything is as usual."""
        self._mended = self.seconds

    def _push(self) -> None:
        while not self._ended.wait(PUSH_SECONDS):
            for service, episodes in self._of.items():
                self._alerting.push(service, exposition(episodes, self.seconds, self._mended))
