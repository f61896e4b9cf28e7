"""The real core in a simulated world: no interleaving breaks an invariant, and each planted bug is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Connection

from tasks.ledger.cases import NotBegun, Work, begin
from tasks.ledger.database import Ledger
from tasks.ledger.holders import leave, register
from tasks.process import this_process
from tests.conftest import arrival, fill
from tests.simulation.chaos import Chaos
from tests.simulation.planted import PLANTED
from tests.simulation.stories import CHUNK, stage, tell

SEED = 1  # `make simulate` plays many more


@pytest.mark.timeout(600)
def test_no_interleaving_breaks_an_invariant() -> None:
    with stage():
        story = "".join(tell(CHUNK, SEED + number) for number in range(3))
    assert not story, story


@pytest.mark.timeout(600)
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_the_simulation_finds_that(plant) -> None:  # type: ignore[no-untyped-def]
    with stage(), plant():
        story = next(filter(None, (tell(CHUNK, SEED + number, shrink=False) for number in range(12))), "")
    print(story)
    verdict = story.partition("\n")[0]
    assert any(words in verdict for words in PLANTED[plant]), story or "not found"
    assert "1. p1 starts on" in story, "a story that nobody can read"


def test_a_holder_that_was_given_up_begins_no_case_that_nobody_would_look_after(ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, tmp_path, [arrival(1)])

    def wake_up(c: Connection) -> Work | NotBegun:
        register(c, "frozen", this_process(), "")
        leave(c, "frozen")
        return begin(c, 1, "frozen", "practice", "1", "")

    found = ledger.write_now("wake up", wake_up)
    assert isinstance(found, NotBegun) and "given up" in found.why


def test_a_healthy_process_is_not_killed_for_an_effect_that_it_could_not_look_for() -> None:
    with stage():
        world = Chaos(3)
        try:
            world.start(0, "a tick")
            world.works_until(0, "begin")
            world.works_until(0, "send reply of case 1")
            world.steps(0, 0, "no answer")
            world.works_until(0, "look for reply of case 1")
            world.steps(0, 0, "fails")
            world.works_until(0, "hand case 1 back")
            world.steps(0, 0, "")
            world.waits(25)
            world.start(0, "a run of the skill")
            world.works(1, 60)
            assert world.processes[0].exists, world.told()
            world.calm()
        finally:
            world.bury()


def test_a_story_is_cut_down_to_what_matters() -> None:
    plant = next(one for one in PLANTED if "intent" in one.__name__)
    with stage(), plant():
        story = tell(50, SEED)
    assert "without its claim" in story and len(story.splitlines()) <= 5, story
