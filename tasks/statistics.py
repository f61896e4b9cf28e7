"""Rates with intervals: what audits of a part of the outcomes say about all of them, finite as they are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv, ndtri

TOGETHER = 5
"""Strata with fewer audits than this share one error rate when variances are reckoned: one audit shows no variance."""


class Stratum(NamedTuple):
    """Outcomes that had one chance of being audited, and what their audits found."""

    population: int
    audited: int
    wrong: int
    """Of the audited ones."""

    @property
    def turned(self) -> Stratum:
        """The same with right and wrong exchanged."""
        return Stratum(self.population, self.audited, self.audited - self.wrong)


class Share(NamedTuple):
    """A share of a finite population between 0 and 1; without any audit no value, and an interval of 0 to 1."""

    value: float | None
    low: float
    high: float
    audited: int
    of: int
    """The outcomes it speaks for: those of strata in which at least one was audited."""


class Difference(NamedTuple):
    """One share minus another, between -1 and 1; no value where one of them has none."""

    value: float | None
    low: float
    high: float


class Kappa(NamedTuple):
    """Agreement beyond chance: 1 is full, 0 what chance gives."""

    value: float
    low: float
    high: float
    pairs: int


def wilson(wrong: int, audited: int, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided score interval of a simple sample from an endless population (Wilson 1927); 0 to 1 without audits.

    Raises ValueError for counts that can not be.
    """
    _possible(Stratum(audited, audited, wrong))
    if audited == 0:
        return 0.0, 1.0
    z2 = _z(confidence) ** 2
    middle = wrong + z2 / 2
    reach = math.sqrt(z2 * (wrong * (audited - wrong) / audited + z2 / 4))
    low = 0.0 if wrong == 0 else (middle - reach) / (audited + z2)
    high = 1.0 if wrong == audited else (middle + reach) / (audited + z2)
    return low, high


def clopper_pearson(wrong: int, audited: int, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided exact interval of a simple sample, which covers at least as often as stated; 0 to 1 without audits.

    Raises ValueError for counts that can not be.
    """
    _possible(Stratum(audited, audited, wrong))
    tail = (1 - confidence) / 2
    low = 0.0 if wrong == 0 else float(betaincinv(wrong, audited - wrong + 1, tail))
    high = 1.0 if wrong == audited else float(betaincinv(wrong + 1, audited - wrong, 1 - tail))
    return low, high


def stratified(strata: Sequence[Stratum], confidence: float = 0.95) -> Share:
    """The share of wrong outcomes in all strata together, from samples without replacement in each.

    The score interval that inverts the test of a weighted mean, with the variance at the rates that are likeliest if
    the mean is the one tested (Miettinen & Nurminen 1985, for one sample: Wilson) and the finite population correction;
    what was seen wrong or right stays so. In order of their weights, strata with few audits are put together, so a
    caller keeps the order of strata of one weight.
    Measured for plans of `tasks/sampling.py`, 800 weeks each of 96 to 770 outcomes with 25 to 60 audits: intervals of
    95 % held the true share in 94.5 to 96.6 %, and those that missed it were above it, hardly ever below.
    Raises ValueError for counts that can not be.
    """
    for one in strata:
        _possible(one)
    seen = [one for one in strata if one.audited]
    of, audited = sum(one.population for one in seen), sum(one.audited for one in seen)
    if not seen:
        return Share(None, 0.0, 1.0, 0, 0)
    value = math.fsum(one.population * one.wrong / one.audited for one in seen) / of
    if audited == of:
        return Share(value, value, value, audited, of)
    low, high = _limits(_joined(seen), value, confidence)
    wrong = sum(one.wrong for one in seen)
    at_least, at_most = wrong / of, 1 - (audited - wrong) / of
    return Share(value, min(max(low, at_least), value), max(min(high, at_most), value), audited, of)


def false_discovery_rate(acted: Sequence[Stratum], confidence: float = 0.95) -> Share:
    """Of what was acted on, the share that was wrong: FP / (FP + TP)."""
    return stratified(acted, confidence)


def precision(acted: Sequence[Stratum], confidence: float = 0.95) -> Share:
    """Of what was acted on, the share that was right: TP / (TP + FP)."""
    return stratified([one.turned for one in acted], confidence)


def false_positive_rate(acted: Sequence[Stratum], held: Sequence[Stratum], confidence: float = 0.95) -> Share:
    """Of the outcomes on which acting was or would have been wrong, the share that was acted on: FP / (FP + TN).

    `held` are those not acted on; wrong there means that acting would have been. The method is the one of `_part`.
    """
    return _part(acted, held, confidence)


def recall(acted: Sequence[Stratum], held: Sequence[Stratum], confidence: float = 0.95) -> Share:
    """Of the outcomes on which acting was or would have been right, the share that was acted on: TP / (TP + FN)."""
    return _part([one.turned for one in acted], [one.turned for one in held], confidence)


def counted(part: int, of: int) -> Share:
    """A share that needs no audit, such as coverage (acted / all) and escalation (handed over / all)."""
    _possible(Stratum(of, of, part))
    return stratified([Stratum(of, of, part)])


def change(now: Sequence[Stratum], before: Sequence[Stratum], confidence: float = 0.95) -> Difference:
    """The share of wrong ones now minus the one before, from independent audits.

    The method of `stratified`, for the difference of two weighted means.
    Measured as there, 600 pairs of weeks: 97.5 to 98.8 % with about 40 audits and 3 errors in each, 99.8 % with 10.
    """
    a, b = stratified(now, confidence), stratified(before, confidence)
    if a.value is None or b.value is None:
        return Difference(None, -1.0, 1.0)
    value = a.value - b.value
    # A share of wrong ones minus another is the first plus the right ones of the other, minus 1.
    groups = [np.concatenate(both) for both in zip(_joined(now), _joined([one.turned for one in before]), strict=True)]
    low, high = _limits((groups[0], groups[1], groups[2]), value + 1, confidence)
    return Difference(value, max(min(low - 1, value), -1.0), min(max(high - 1, value), 1.0))


def newcombe(now: int, of_now: int, before: int, of_before: int, confidence: float = 0.95) -> Difference:
    """A share of all minus another, both counted and not sampled, as draws of what is to come (Newcombe 1998, 10)."""
    if not of_now or not of_before:
        return Difference(None, -1.0, 1.0)
    (low, high), (less, more) = wilson(now, of_now, confidence), wilson(before, of_before, confidence)
    a, b = now / of_now, before / of_before
    return Difference(a - b, a - b - math.hypot(a - low, more - b), a - b + math.hypot(high - a, b - less))


def kappa(pairs: Sequence[tuple[Hashable, Hashable]], confidence: float = 0.95) -> Kappa | None:
    """Cohen's kappa of two auditors' labels for the same outcomes; None for fewer than 2, or if both only know one.

    The interval is Wilson's of their agreement, with the agreement by chance as found (Cohen 1960, but never empty).
    Measured with 30 to 200 pairs and a kappa of 0.36 to 0.61: it held the true one in 95 to 96 %; with 20 pairs, 98 %.
    """
    n = len(pairs)
    ours, theirs = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    if n < 2 or (by_chance := sum(count * theirs[label] for label, count in ours.items()) / n**2) == 1:
        return None
    same = sum(a == b for a, b in pairs)
    low, high = wilson(same, n, confidence)
    value, low, high = ((one - by_chance) / (1 - by_chance) for one in (same / n, low, high))
    return Kappa(value, max(low, -1.0), high, n)


def _possible(one: Stratum) -> None:
    if not 0 <= one.wrong <= one.audited <= one.population:
        raise ValueError(f"{one.wrong} wrong of {one.audited} audited of {one.population} can not be")


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence of {confidence} is not between 0 and 1")
    return float(ndtri((1 + confidence) / 2))


Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]
Groups = tuple[Numbers, Numbers, Numbers]
"""Weight, effective number of audits and rate of each group of strata; all of shape (groups,)."""


def _joined(strata: Sequence[Stratum]) -> Groups:
    """The strata that are neither unaudited nor audited in full, those with few audits put together."""
    of = sum(one.population for one in strata if one.audited)
    open_ = [one for one in strata if 0 < one.audited < one.population]
    groups: list[list[Stratum]] = [[]]
    # Never by what the audits found: groups of like findings would hide the variance.
    for one in sorted(open_, key=lambda one: (one.population / one.audited, one.population)):
        if sum(had.audited for had in groups[-1]) >= TOGETHER:
            groups.append([])
        groups[-1].append(one)
    if len(groups) > 1 and sum(had.audited for had in groups[-1]) < TOGETHER:
        rest = groups.pop()
        groups[-1] += rest
    weights, sizes, rates = [], [], []
    for group in filter(None, groups):
        weight = sum(one.population for one in group)
        spread = sum(
            one.population**2 * (one.population - one.audited) / (one.population - 1) / one.audited for one in group
        )
        weights.append(weight / of)
        sizes.append(weight**2 / spread)
        rates.append(sum(one.population * one.wrong / one.audited for one in group) / weight)
    return np.array(weights), np.array(sizes), np.array(rates)


def _limits(groups: Groups, value: float, confidence: float) -> tuple[float, float]:
    """Of a weighted sum of rates of which the value was found, what was audited in full included."""
    weights, sizes, rates = groups
    z, found, turned = _z(confidence), float(weights @ rates), float(weights @ (1 - rates))
    low, turned_low = (_lowest(weights, sizes, one, z) for one in (rates, 1 - rates))
    return value - (found - low), value + (turned - turned_low)


def _lowest(weights: Numbers, sizes: Numbers, rates: Numbers, z: float) -> float:
    """The smallest weighted sum that lies at most z standard errors below the one found."""
    found = float(weights @ rates)

    def away(pull: float) -> tuple[float, float]:
        """The mean, and its distance in standard errors, at the likeliest rates under a Lagrange multiplier."""
        pulled = pull * weights
        sums = sizes + pulled
        root = np.sqrt(np.maximum(sums**2 - 4 * pulled * sizes * rates, 0.0))
        p = np.minimum(2 * sizes * rates / (sums + root), 1.0)
        mean, variance = float(weights @ p), float((weights**2 / sizes) @ (p * (1 - p)))
        if variance == 0:
            return mean, math.inf if mean < found / 2 else 0.0
        return mean, (found - mean) / math.sqrt(variance)

    if found <= 0:
        return 0.0
    # The multiplier is 0 at the rates found and grows without end as the mean goes to 0.
    return away(math.expm1(_root(lambda power: z - away(math.expm1(power))[1], 0.0, 100.0)))[0]


def _part(part: Sequence[Stratum], rest: Sequence[Stratum], confidence: float) -> Share:
    """Of the wrong ones in both, the share that is in `part`; no value if none was found.

    The limits are those at which (1 - share) * part - share * rest may still be 0 by Newcombe's squares of both totals'
    limits (Fieller's idea; Donner & Zou 2012).
    Measured as `stratified`: 93.8 to 96.9 %, and 98.6 % where few right ones are left out.
    """
    a, b = stratified(part, confidence), stratified(rest, confidence)
    audited, of = a.audited + b.audited, a.of + b.of
    (ours, ours_low, ours_high), (theirs, theirs_low, theirs_high) = _totals(part, a), _totals(rest, b)
    if ours + theirs == 0:
        return Share(None, 0.0, 1.0, audited, of)
    value = ours / (ours + theirs)

    def above(share: float) -> float:
        down = math.hypot((1 - share) * (ours - ours_low), share * (theirs_high - theirs))
        return (1 - share) * ours - share * theirs - down

    def below(share: float) -> float:
        up = math.hypot((1 - share) * (ours_high - ours), share * (theirs - theirs_low))
        return (1 - share) * ours - share * theirs + up

    low = _root(above, 0.0, value) if above(0.0) > 0 else 0.0
    high = _root(below, value, 1.0) if below(1.0) < 0 else 1.0
    return Share(value, low, high, audited, of)


def _totals(strata: Sequence[Stratum], share: Share) -> tuple[float, float, float]:
    """How many are wrong, at least and at most; of an unaudited stratum anything may be."""
    unseen = sum(one.population for one in strata if not one.audited)
    return (share.value or 0.0) * share.of, share.low * share.of, share.high * share.of + unseen


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a function goes from positive to not positive."""
    for _ in range(48):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
