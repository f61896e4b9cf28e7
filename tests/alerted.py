"""An agent's desk at a real Alertmanager: what its ticks keep of a source, and a clock for it that tests set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select

from tasks.ledger.arrivals import concluded, recall, record, seen
from tasks.ledger.database import Ledger
from tasks.ledger.tables import cases
from tasks.records import Arrival, Signal, Unreadable
from tasks.sources import Known, alertmanager, canonical
from tests.alerting import RULES, Alerting, alerting_in
from tests.conftest import wait_for

INHIBITING = [{"source_matchers": ["alertname=SwitchDown"], "target_matchers": ["alertname=LinkDown"]}]
DOWN = [
    {"alert": name, "expr": f'down{{what="{name}"}} == 1'} for name in ("SwitchDown", "LinkDown", "Flapper", "Fridge")
]
MINUTE = 60.0


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alerting]:
    folder = tmp_path_factory.mktemp("alerting")
    with alerting_in(folder, [*RULES, *DOWN], inhibit=INHIBITING, resend="3s") as found:
        yield found


class Desk:
    """What the ticks of an agent do with a source: they write in portions what a poll brings."""

    def __init__(self, ledger: Ledger, source: str) -> None:
        self.ledger, self.source = ledger, canonical(source)
        self.known = Known(
            lambda names: ledger.read_now("see", lambda c: seen(c, self.source, names)),
            lambda prefix: ledger.read_now("recall", lambda c: recall(c, self.source, prefix)),
            lambda keys: ledger.read_now("ask", lambda c: concluded(c, self.source, keys)),
        )

    def tick(self, most: int | None = None, portion: int = 100) -> list[Any]:
        """One poll; killed once so many of its finds are written, if that is said."""
        found: list[Any] = []
        news = islice(alertmanager.poll(self.source, self.known), most)
        while some := list(islice(news, portion)):
            kept = [one for one in some if not isinstance(one, Unreadable)]
            self.ledger.write_now("record", lambda c, kept=kept: record(c, "desk", self.source, kept))  # type: ignore[misc]
            found += some
        return found

    def new(self) -> list[Arrival]:
        return [one for one in self.tick() if isinstance(one, Arrival)]

    def told(self) -> list[tuple[str, str, bool | None]]:
        return [(one.what, one.key, one.right) for one in self.tick() if isinstance(one, Signal)]

    def until_told(self, what: str) -> tuple[str, str, bool | None]:
        found: list[tuple[str, str, bool | None]] = []

        def heard() -> bool:
            found.extend(self.told())
            return any(one[0] == what for one in found)

        wait_for(heard, 60, what)
        return next(one for one in found if one[0] == what)

    def cases(self) -> list[str]:
        found = select(cases.c.key).where(cases.c.source == self.source).order_by(cases.c.id)
        return list(self.ledger.read_now("look", lambda c: c.execute(found).scalars().all()))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the source's clock forward by so many seconds, all told."""
    ahead = [0.0]
    monkeypatch.setattr(alertmanager, "time", SimpleNamespace(time=lambda: time.time() + ahead[0]))

    def forward(seconds: float) -> None:
        ahead[0] += seconds

    return forward
