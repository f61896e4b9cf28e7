"""The real core in a simulated world: no interleaving breaks an invariant, and each planted bug is found."""

from __future__ import annotations

import pytest

from tests.simulation.planted import PLANTED
from tests.simulation.stories import stage, tell

SEED = 1  # `make simulate` plays many more


@pytest.mark.timeout(600)
def test_no_interleaving_breaks_an_invariant() -> None:
    with stage():
        story = tell(300, SEED, shrink=True)
    assert not story, story


@pytest.mark.timeout(600)
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_the_simulation_finds_that(plant) -> None:  # type: ignore[no-untyped-def]
    with stage(), plant():
        story = tell(400, SEED, shrink=False)
    print(story)
    verdict = story.partition("\n")[0]
    assert any(words in verdict for words in PLANTED[plant]), story or "not found"
    assert "1. p1 starts on" in story, "a story that nobody can read"


def test_a_story_is_cut_down_to_what_matters() -> None:
    plant = next(one for one in PLANTED if "intent" in one.__name__)
    with stage(), plant():
        story = tell(50, SEED)
    assert "without its claim" in story and len(story.splitlines()) <= 5, story
