"""From which confidence on a skill may act by itself, as far as audits can vouch for it, and when it errs too often."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from scipy.special import gammaincinv

from tasks.statistics import Stratum

GRID = tuple(step / 100 for step in range(100))
"""Thresholds that may be chosen."""

BEGIN, SPARE = 0.4, 8
"""The first threshold that is tested is the highest above which this share of the outcomes lies, and that would pass
without errors; or one that would still pass with so many. Higher ones fail by a single error, and end all."""


class Label(NamedTuple):
    """An audited outcome, acted on or not."""

    confidence: float
    right: bool
    """Whether acting on its answer was right, or would have been."""
    chance: float
    """The probability with which it was drawn."""


class Chosen(NamedTuple):
    """A threshold, or why there is none yet."""

    threshold: float | None
    rate: float | None
    """Of what would be acted on at the threshold, the share that is wrong, as estimated; without one, at the first."""
    upper: float | None
    """The limit of that rate, at most the target where there is a threshold."""
    coverage: float
    """The share of outcomes that would be acted on."""
    labels: int
    """Those at or above the threshold."""
    more: int | None
    """Labels that are missing until a threshold could pass; None where more of the same would not help."""
    why: str
    """In plain English."""


class Alarm(NamedTuple):
    """Whether a rate is above its target by more than chance explains."""

    raised: bool
    rate: float | None
    lower: float
    """The one-sided limit of the rate at the level of the alarm."""
    why: str


class _Errors:
    """The weighted rate of wrong labels among those that were added so far, with limits (Fay & Feuer 1997).

    The limits are those of a gamma distribution: with equal weights the exact ones of a Poisson count, which is wider
    than a binomial one. With unequal weights Fay and Feuer assume that the next error is the heaviest, which left no
    threshold to most skills; here it is as heavy as the outcomes' mean one (weights squared / weights).
    """

    def __init__(self) -> None:
        self.labels = 0
        self.total = self.total_squares = self.wrong = self.squares = 0.0

    def add(self, weight: float, labels: int, wrong: int) -> None:
        self.labels += labels
        self.total += weight * labels
        self.wrong += weight * wrong
        self.squares += weight * weight * wrong
        self.total_squares += weight * weight * labels

    @property
    def next(self) -> float:
        """The weight of an error that was not found yet."""
        return self.total_squares / self.total

    @property
    def rate(self) -> float:
        return self.wrong / self.total

    def upper(self, level: float, more: float = 1.0) -> float:
        """Above this the rate is with a probability of at most `level`; if there were `more` times these labels."""
        wrong, squares = self.wrong + self.next / more, self.squares / more + (self.next / more) ** 2
        return min(_quantile(wrong, squares, 1 - level) / self.total, 1.0)

    def lower(self, level: float) -> float:
        return _quantile(self.wrong, self.squares, level) / self.total if self.wrong else 0.0

    def bears(self, errors: int, level: float, target: float) -> bool:
        """Whether the upper limit would be at most the target with so many errors of that weight."""
        return self.next * float(gammaincinv(errors + 1, 1 - level)) <= target * self.total


def choose(labels: Iterable[Label], target: float, delta: float = 0.1, grid: Sequence[float] = GRID) -> Chosen:
    """The lowest threshold at which the false-discovery rate is at most `target`, but for a probability of `delta`.

    Learn then test (Angelopoulos et al. 2021) with fixed-sequence testing: from a first threshold, which is chosen by
    the labels' confidences and weights but not by what they say, downwards to the first whose upper limit at level
    `delta` is above the target. So all thresholds together err with probability `delta`, as if only one was tested.
    Labels weigh 1 / chance. The promise is for one call, and for outcomes like those the labels were drawn from.

    It is exact where labels have one weight. Measured for plans of `tasks/sampling.py` with 160, 320 and 800 labels, a
    target of 5 % and a delta of 10 % in nine made-up skills: at most 6.3 % of 300 worlds, 10 % of 100 with most labels,
    had a threshold that was too low (a weighted one-sided Wilson limit without a fixed sequence: up to 32 %).
    It does not hold where all errors are in outcomes drawn 14 times as rarely as the rest: 15 % then, but plans do not
    draw so unequally. The price is coverage: of a skill that errs in 3.6 % overall, 32, 63 and 95 % were let through.
    Raises ValueError for a target, delta or chance that is not above 0 and at most 1.
    """
    if not (0 < target < 1 and 0 < delta < 1):
        raise ValueError(f"a target of {target} and a delta of {delta} are not between 0 and 1")
    falling = sorted(labels, key=lambda one: -one.confidence)
    if any(not 0 < one.chance <= 1 for one in falling):
        raise ValueError("a label with a chance that is not above 0 and at most 1")
    everything = math.fsum(1 / one.chance for one in falling)
    errors, place, begun = _Errors(), 0, False
    best: Chosen | None = None
    stated = f"with a probability of {1 - delta:.0%}"
    for threshold in sorted(grid, reverse=True):
        before = place
        while place < len(falling) and falling[place].confidence >= threshold:
            errors.add(1 / falling[place].chance, 1, not falling[place].right)
            place += 1
        # Without a label of its own a threshold would pass on the word of others.
        if place == before or not (begun := begun or _enough(errors, everything, delta, target)):
            continue
        if (upper := errors.upper(delta)) > target:
            return best or _refused(errors, threshold, delta, target)
        coverage = errors.total / everything
        why = (
            f"At {threshold:.2f} and above {errors.rate:.1%} are wrong by {errors.labels} audits; {stated} at most "
            f"{upper:.1%}, within the target of {target:.1%}. {coverage:.0%} of the outcomes are there."
        )
        best = Chosen(threshold, errors.rate, upper, coverage, errors.labels, 0, why)
    return best or _too_few(errors, delta, target)


def alarm(strata: Iterable[Stratum], target: float, level: float = 0.01) -> Alarm:
    """Whether the false-discovery rate among acted outcomes is above `target`, in so few weeks as the strata are of.

    One-sided, at the lower limit of `_Errors`: where the rate is at the target, a false alarm comes in at most `level`
    of the weeks. Measured with 45 audits in two strata and a target of 5 %: in at most 0.5 % of the weeks; rates of 10,
    15 and 29 % were told in 9, 40 and 99 %.
    """
    errors = _Errors()
    for one in strata:
        if one.audited:
            errors.add(one.population / one.audited, one.audited, one.wrong)
    if not errors.labels:
        return Alarm(False, None, 0.0, "Nothing that was acted on has been audited.")
    lower = errors.lower(level)
    seen = f"{errors.rate:.1%} of what was acted on is wrong by {errors.labels} audits"
    if lower > target:
        return Alarm(True, errors.rate, lower, f"{seen}: at least {lower:.1%}, above the target of {target:.1%}.")
    if errors.rate > target:
        return Alarm(False, errors.rate, lower, f"{seen}, which may be chance with a target of {target:.1%}.")
    return Alarm(False, errors.rate, lower, f"{seen}, within the target of {target:.1%}.")


def _quantile(mean: float, squares: float, probability: float) -> float:
    """Of the gamma distribution with this mean and variance."""
    return float(gammaincinv(mean**2 / squares, probability)) * squares / mean


def _enough(errors: _Errors, everything: float, delta: float, target: float) -> bool:
    """Whether to begin testing here."""
    far = errors.total >= BEGIN * everything
    return errors.bears(SPARE, delta, target) or (far and errors.bears(0, delta, target))


def _refused(errors: _Errors, threshold: float, delta: float, target: float) -> Chosen:
    """Not even the first threshold passed."""
    upper, more = errors.upper(delta), None
    why = f"At {threshold:.2f} and above {errors.rate:.1%} are wrong by {errors.labels} audits"
    if errors.rate >= target:
        why += f", not below the target of {target:.1%}: more audits alone would not help. Keep a cautious threshold."
    else:
        times = 1.0
        while errors.upper(delta, times) > target and times < 1000:
            times *= 1.02
        more = max(math.ceil((times - 1) * errors.labels), 1)
        why += (
            f" and it may be {upper:.1%}, above the target of {target:.1%}: no threshold can be trusted yet. "
            f"It needs about {more} more audits there. Keep a cautious threshold."
        )
    return Chosen(None, errors.rate, upper, 0.0, errors.labels, more, why)


def _too_few(errors: _Errors, delta: float, target: float) -> Chosen:
    """No threshold could pass, whatever the labels say."""
    # So many labels of one weight pass if none is wrong.
    needed = float(gammaincinv(1, 1 - delta)) / target
    more = max(math.ceil(needed - (errors.total / errors.next if errors.labels else 0)), 1)
    why = (
        f"No threshold can be trusted yet: with {errors.labels} audits even a faultless skill might be wrong in more "
        f"than {target:.1%}. It needs {more} more audits. Keep a cautious threshold."
    )
    if not errors.labels:
        return Chosen(None, None, None, 0.0, 0, more, why)
    return Chosen(None, errors.rate, errors.upper(delta), 0.0, errors.labels, more, why)
