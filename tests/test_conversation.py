"""A conversation with tools goes on at the turn where it was cut: no turn is paid twice and no tool runs twice."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import func, select

from tasks.errors import BadInput
from tasks.ledger.database import Ledger
from tasks.ledger.tables import outcomes, steps
from tasks.records import Arrival
from tasks.tools import Toolbox
from tests import forked
from tests.claude.log import paid_twice
from tests.claude.running import Claude, claude_server_in
from tests.conftest import arrival, fill, wait_for
from tests.talking import note, read_page, talking


@pytest.fixture
def desk(ledger: Ledger, prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Claude]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test-1234")
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    monkeypatch.setenv("PRACTICE_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    (tmp_path / "log").touch()
    brain = "tests.talking:brain"
    with claude_server_in(tmp_path, brain=brain) as server, temporary_settings({PREFECT_API_URL: prefect_server}):
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        yield server


def asks(number: int, plan: str, turns: int = 30) -> Arrival:
    return arrival(number, body=plan).model_copy(update={"subject": f"turns {turns}"})


def concluded(ledger: Ledger) -> list[tuple[str, str]]:
    rows = ledger.read_now("look", lambda c: c.execute(select(outcomes).order_by(outcomes.c.case)).all())
    return [(row.kind, row.answer) for row in rows]


def used(tmp_path: Path) -> Counter[str]:
    return Counter((tmp_path / "log").read_text().splitlines())


def test_what_the_model_does_wrong_is_told_to_it_and_ends_no_case(desk: Claude, ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, tmp_path, [asks(1, "1 nonsense nobody 13 words wrong note end")])
    asyncio.run(talking(cases=[1]))
    assert concluded(ledger) == [("acted", "7")]
    assert used(tmp_path) == {"page 1": 1, "page 13": 1, "note turn 6": 1}


def test_a_conversation_that_does_not_end_is_made_to_conclude(desk: Claude, ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, tmp_path, [asks(1, "1 " * 50, turns=6)])
    asyncio.run(talking(cases=[1]))
    assert concluded(ledger) == [("acted", "5")] and len(desk.entries("message")) == 6


def test_a_killed_conversation_goes_on_at_the_turn_where_it_was_cut(
    desk: Claude, ledger: Ledger, tmp_path: Path
) -> None:
    fill(ledger, tmp_path, [asks(number, "1 2 note 3 note 4 note end") for number in range(1, 5)])
    run = "import asyncio\nfrom tests.talking import talking\nasyncio.run(talking(cases=[1, 2, 3, 4]))"
    for skip, many in ((5, 4), (6, 1), (6, 1)):  # what was in hand at a death is worked alone from then on
        desk.fail("held", skip=skip, times=many)
        with (tmp_path / "said").open("a") as said:
            first = forked.start(code=run, output=said)
        wait_for(lambda many=many: len(desk.state()["in_flight"]) == many, 90, f"{many} turn(s) under way")  # type: ignore[misc]
        first.send_signal(signal.SIGKILL)
        first.wait()
        desk.control(release=True)
    forked.run(code=run).check_returncode()
    assert concluded(ledger) == [("acted", "7")] * 4
    assert paid_twice(desk.entries(), answered=True) == []
    assert set(used(tmp_path).values()) == {4}, "a tool ran again"


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_turn_of_a_long_conversation_stores_no_more_than_one_of_a_short_one(
    desk: Claude, ledger: Ledger, tmp_path: Path
) -> None:
    fill(ledger, tmp_path, [asks(1, "1 " * 199 + "end", turns=201)])
    asyncio.run(talking(cases=[1]))
    assert concluded(ledger) == [("acted", "199")]
    found = select(func.length(steps.c.value)).where(steps.c.step.endswith("turn")).order_by(steps.c.at)
    sizes = ledger.read_now("look", lambda c: list(c.execute(found).scalars()))
    assert len(sizes) == 200 and max(sizes[150:199]) <= 1.05 * max(sizes[:50])
    asked = [one.usage["input_tokens"] + one.usage["cache_read_input_tokens"] for one in desk.entries("message")]
    assert max(asked) < 60_000, "old results were not trimmed"


def test_a_tool_that_a_model_could_not_use_rightly_is_refused_at_once() -> None:
    async def silent(x: int) -> int:
        return x

    async def untyped(x) -> int:  # type: ignore[no-untyped-def]
        """Something."""
        return 1

    def sync(x: int) -> int:
        """Something."""
        return x

    for bad in (silent, untyped, sync):
        with pytest.raises(BadInput):
            Toolbox([bad])  # type: ignore[list-item]
    shown: dict[str, Any] = {one["name"]: one for one in Toolbox([read_page, note]).shown()}
    assert list(shown) == ["note", "read_page"] and shown["note"]["input_schema"]["required"] == ["text"]
