"""Chance alone seldom ends a trial of a version, however often it is looked at, and a real difference does."""

from __future__ import annotations

import functools
import random

import numpy as np
import pytest

from tasks.releases import LEVEL, Beside, ruling
from tasks.statistics import Difference, Stratum, change, newcombe


@pytest.mark.parametrize(
    ("before", "now", "stage", "most"), [(0.08, 0.08, "retired", 0.01), (0.05, 0.10, "live", 0.005)]
)
def test_chance_alone_seldom_takes_a_version_back_or_promotes_a_worse_one(
    before: float, now: float, stage: str, most: float
) -> None:
    dice, ruled = random.Random(5), 0
    for _ in range(600):
        wrong = [sum(dice.random() < rate for _ in range(150)) for rate in (now, before)]
        found = change([Stratum(10**8, 150, wrong[0])], [Stratum(10**8, 150, wrong[1])], LEVEL)
        acted = [sum(dice.random() < 0.8 for _ in range(500)) for _ in "12"]
        ruled += ruling(Beside(found, newcombe(acted[0], 500, acted[1], 500, LEVEL), 150), "live")[0] == stage
    assert ruled / 600 <= most


@functools.cache
def compared(audits: int, now: int, before: int) -> Difference:
    return change([Stratum(10**8, audits, now)], [Stratum(10**8, audits, before)], LEVEL)


def tried(now: float, covered: float, audits: int, dice: np.random.Generator) -> str:
    """How a trial of half a year ends that is looked at twice a week, over eight weeks at the most, beside 8 % wrong.

    `audits` are those of half a week of each version; of 1,000 cases a week the new one has 100 and acts on `covered`.
    """
    wrong = dice.binomial(audits, [[now], [0.08]], (2, 52))
    acted = dice.binomial([[100], [900]], [[covered], [0.8]], (2, 26))
    for look in range(52):
        week = look // 2
        first = max(0, week - 7)
        a, b = (int(one) for one in wrong[:, 2 * first : look + 1].sum(axis=1))
        ours, theirs = (int(one) for one in acted[:, first : week + 1].sum(axis=1))
        seen, weeks = audits * (look + 1 - 2 * first), week + 1 - first
        both = newcombe(ours, 100 * weeks, theirs, 900 * weeks, LEVEL)
        stage, _ = ruling(Beside(compared(seen, a, b), both, seen), "live")
        if stage is not None:
            return stage
    return "canary"


@pytest.mark.parametrize(
    ("now", "covered", "ends", "least", "most"),
    [
        (0.08, 0.8, "retired", 0.0, 0.1),
        (0.10, 0.8, "live", 0.0, 0.08),
        (0.13, 0.8, "live", 0.0, 0.015),
        (0.18, 0.8, "retired", 0.97, 1.0),
        (0.03, 0.8, "live", 0.9, 1.0),
        (0.08, 0.7, "retired", 0.97, 1.0),
    ],
    ids=["as good", "worse by 2", "worse by 5", "worse by 10", "better by 5", "acts on less by 10"],
)
def test_in_a_trial_of_half_a_year_that_is_looked_at_52_times_chance_seldom_rules(
    now: float, covered: float, ends: str, least: float, most: float
) -> None:
    dice = np.random.default_rng(5)
    assert least <= np.mean([tried(now, covered, 10, dice) == ends for _ in range(200)]) <= most


def test_a_difference_of_two_counted_shares_is_the_published_one() -> None:
    found = newcombe(56, 70, 48, 80)  # Newcombe 1998, Statistics in Medicine 17, table II, method 10, (a)
    assert (round(found.low, 4), round(found.high, 4)) == (0.0524, 0.3339)
    assert newcombe(1, 0, 3, 4).value is None
