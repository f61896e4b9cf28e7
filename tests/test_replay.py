"""An exam is sat by cases that taught nothing, its figures are those of the books, and chance passes it seldom."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binomtest

from tasks.ledger.proposals import Told
from tasks.proposals import BEYOND_CHANCE, GROWN
from tasks.replay import EXAM, compared, difference_of_pairs, held_out, mcnemar, parted

WEEKS, A_WEEK, HALF_YEARS = 26, 85, 300
Chances = Callable[[int], tuple[float, float]]
"""Of a batch of so many weeks: how often it reads a case rightly that was read wrongly, and the other way round."""


def told(numbers: range, threads: int = 0) -> list[Told]:
    return [Told(one, "answer", "refunds", True, f"box {one % threads if threads else one}") for one in numbers]


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (0, 9), (1, 0), (5, 0), (7, 2), (20, 6), (43, 20), (30, 31)])
def test_the_exact_test_does_not_differ_from_scipys(gained: int, lost: int) -> None:
    wanted = binomtest(gained, gained + lost, 0.5, alternative="greater").pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(wanted, abs=1e-12)


def test_the_interval_of_pairs_is_the_published_one_and_holds_the_truth_as_often_as_it_says() -> None:
    # Bonett & Price as in the R package statpsych: ci.prop.ps(.05, 12, 4, 26, 6)
    assert difference_of_pairs(26, 4, 48) == pytest.approx((0.2548067, 0.6251933), abs=1e-6)
    assert difference_of_pairs(0, 0, 0) == (-1.0, 1.0)
    dice = np.random.default_rng(1)
    for up, down, n in ((0.05, 0.05, 500), (0.10, 0.04, 250), (0.04, 0.02, 500), (0.20, 0.10, 80)):
        drawn = dice.multinomial(n, (up, down, 1 - up - down), 4_000)
        ends = [difference_of_pairs(int(gained), int(lost), n) for gained, lost, _ in drawn]
        assert 0.93 <= np.mean([low <= up - down <= high for low, high in ends]) <= 0.97, (up, down, n)


def test_what_was_gained_is_not_hidden_by_what_was_lost() -> None:
    found = compared([True, True, False, False, False], [True, False, True, True, False])
    assert (found.held_out, found.right_before, found.right_after) == (5, 2, 3)
    assert (found.gained, found.lost, found.difference) == (2, 1, 0.2)
    assert found.p == 0.5 and found.low < 0.2 < found.high
    nothing = compared([], [])
    assert (nothing.held_out, nothing.p, nothing.difference) == (0, 1.0, None), "nothing was examined, and passed"


def test_no_case_changes_sides_and_no_conversation_is_on_both() -> None:
    sides = "".join(str(int(held_out(f"maildir:/inbox <{number}@example.com>"))) for number in range(24))
    assert sides == "110110011100001101011010", "what taught a skill would examine it"
    assert 0.47 < np.mean([held_out(str(number)) for number in range(5_000)]) < 0.53
    exam, shown = parted(told(range(1, 401), threads=40), set())
    assert not {one.conversation for one in exam} & {one.conversation for one in shown}


def test_an_exam_is_the_newest_of_the_held_out_and_of_nothing_that_was_ever_proposed() -> None:
    everything = told(range(1, 3_001))
    exam, shown = parted(everything, set())
    held = [one.case for one in everything if held_out(one.conversation)]
    assert [one.case for one in exam] == held[-EXAM:] and len(held) > EXAM
    served = {one.case for one in shown}
    assert set(held[:-EXAM]) <= served, "half of what people say would never teach"
    again, _ = parted([one for one in everything if one.case not in held[-50:]], served)
    assert not {one.case for one in again} & served, "what was proposed came back as an exam"


def passes(effect: Chances, every_week: bool, dice: np.random.Generator) -> bool:
    """Whether a batch that grows by a week's cases at a time is let in within half a year.

    Half of an exam's cases are answered as in the exam before, the others anew: a memory that is trained again changes.
    """
    answers, size = dice.random(A_WEEK * WEEKS), 0.0
    for week in range(1, WEEKS + 1):
        anew = dice.random(len(answers)) < 0.5
        answers[anew] = dice.random(int(anew.sum()))
        if week < size * GROWN and not every_week:
            continue
        size = week
        up, down = effect(week)
        sat = answers[: A_WEEK * week][-EXAM:]
        if mcnemar(int((sat < up).sum()), int((sat > 1 - down).sum())) <= BEYOND_CHANCE:
            return True
    return False


@pytest.mark.parametrize(
    ("effect", "every_week", "least", "most"),
    [
        (lambda week: (0.04, 0.04), True, 0.40, 1.0),
        (lambda week: (0.04, 0.04), False, 0.0, 0.25),
        (lambda week: (0.035, 0.045), False, 0.0, 0.06),
        (lambda week: (0.03, 0.05), False, 0.0, 0.02),
        (lambda week: (0.03 + 0.0025 * week, 0.03), False, 0.97, 1.0),
    ],
    ids=["useless, every week", "useless", "worse by 1 in 100", "worse by 2 in 100", "better by 1 in 400 a week"],
)
def test_what_helps_is_let_in_and_what_does_not_has_few_exams_to_pass_by_chance(
    effect: Chances, every_week: bool, least: float, most: float
) -> None:
    dice = np.random.default_rng(random.Random(7).getrandbits(32))
    found = np.mean([passes(effect, every_week, dice) for _ in range(HALF_YEARS)])
    assert least <= found <= most
