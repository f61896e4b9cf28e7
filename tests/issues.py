"""Issues of a real tracker, as tests open them for its customers and look at what an agent reads and answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tasks import sources
from tasks.effects import effect_key
from tasks.records import Arrival, Case, Effect
from tasks.sources import Found, Known
from tests.between import Between, between
from tests.tracker import AGENT, Tracker, tracker

DESK = "desk@fennmoor.example"
ANN = "ann@example.com"


def nothing(_: Sequence[str]) -> set[str]:
    return set()


@pytest.fixture(scope="module")
def shared() -> Iterator[Tracker]:
    with tracker() as one:
        yield one


@pytest.fixture
def desk(shared: Tracker, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    """The module's tracker, in which each test opens issues of its own."""
    for name, value in shared.account.items():
        monkeypatch.setenv(name, value)
    return shared


@pytest.fixture
def passing(desk: Tracker) -> Iterator[Between]:
    with between(desk.root) as one:
        yield one


def read(url: str, seen: Any = nothing, notes: dict[str, Any] | None = None) -> list[Found]:
    return list(sources.poll(url, Known(seen, lambda prefix: notes or {})))


def cases_of(url: str, issue: str) -> list[Arrival]:
    """What a poll brings of one issue, without reading those of other tests."""
    found = read(url, lambda names: {one for one in names if not one.startswith(f"issue{issue}/")})
    return [one for one in found if isinstance(one, Arrival)]


def case_of(url: str, issue: str) -> Case:
    (one,) = cases_of(url, issue)
    given = one.model_dump(exclude={"marker"})
    return Case(id=1, agent="desk", source=sources.canonical(url), **given)


def opened(desk: Tracker, who: str = ANN, text: str = "Where is my lamp?", **more: Any) -> str:
    return desk.do(by=who, title=more.pop("title", "Lamp"), text=text, **more)[0]


def answers(desk: Tracker, issue: str) -> list[str]:
    return [one["content"] for one in desk.ticket(issue).messages if one["author"]["username"] == AGENT]


def key_of(case: Case, effect: Effect) -> str:
    return effect_key(case, effect)
