"""Intervals hold what they say under the plan that audits are drawn by, and rates have their right names."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from tasks.sampling import Cell, draw, plan, stratum
from tasks.statistics import (
    Kappa,
    Share,
    Stratum,
    change,
    clopper_pearson,
    counted,
    false_discovery_rate,
    false_positive_rate,
    kappa,
    precision,
    recall,
    stratified,
    wilson,
)

ENDLESS = 10**9
WORLDS = 250


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("wrong", "audited"), [(0, 1), (0, 30), (1, 30), (7, 20), (20, 20), (3, 1000)])
def test_simple_intervals_do_not_differ_from_scipys(wrong: int, audited: int, confidence: float) -> None:
    known = binomtest(wrong, audited)
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        wanted = known.proportion_ci(confidence, method)
        assert ours(wrong, audited, confidence) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_without_an_audit_no_rate_is_claimed() -> None:
    assert wilson(0, 0) == clopper_pearson(0, 0) == (0.0, 1.0)
    assert stratified([]) == stratified([Stratum(50, 0, 0)]) == Share(None, 0.0, 1.0, 0, 0)
    assert change([Stratum(50, 10, 1)], [Stratum(50, 0, 0)]) == (None, -1.0, 1.0)
    assert kappa([]) is None and kappa([("a", "a")]) is None


@pytest.mark.parametrize("given", [(10, 5, 6), (10, 11, 1), (10, 5, -1), (-1, 0, 0)])
def test_counts_that_can_not_be_are_refused(given: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="can not be"):
        stratified([Stratum(*given)])
    with pytest.raises(ValueError, match="confidence"):
        stratified([Stratum(10, 5, 1)], confidence=95)


@pytest.mark.parametrize(("wrong", "audited"), [(0, 30), (1, 30), (7, 20), (20, 20)])
def test_one_endless_stratum_is_not_judged_otherwise_than_by_wilson(wrong: int, audited: int) -> None:
    share = stratified([Stratum(ENDLESS, audited, wrong)])
    assert (share.low, share.high) == pytest.approx(wilson(wrong, audited), abs=1e-6)


def test_strata_of_one_weight_with_few_audits_are_not_taken_to_have_no_variance() -> None:
    apart = stratified([Stratum(10**6, 1, wrong) for wrong in [0, 0, 1, 0, 0, 1, 0]])
    assert apart[1:3] == pytest.approx(wilson(2, 7), abs=1e-4)


def test_what_is_audited_in_full_leaves_no_doubt() -> None:
    full = [Stratum(7, 7, 2), Stratum(13, 13, 1)]
    assert stratified(full) == Share(0.15, 0.15, 0.15, 20, 20)
    assert change(full, [Stratum(10, 10, 1)]) == pytest.approx((0.05, 0.05, 0.05))
    assert false_positive_rate(full, [Stratum(10, 10, 6)])[:3] == pytest.approx((1 / 3,) * 3)
    part = stratified([Stratum(7, 7, 2), Stratum(13, 12, 1)])
    assert part.low == pytest.approx(3 / 20) and part.high <= 4 / 20 + 1e-9


def test_what_was_seen_is_never_outside_of_the_interval() -> None:
    seen = stratified([Stratum(20, 15, 3), Stratum(10, 2, 0)])
    assert seen.low >= 3 / 30 and seen.high <= 1 - 14 / 30


def test_a_share_says_for_how_many_outcomes_it_speaks() -> None:
    share = stratified([Stratum(100, 10, 1), Stratum(900, 0, 0), Stratum(300, 10, 2)])
    assert (share.audited, share.of, share.value) == (20, 400, pytest.approx((10 + 60) / 400))


SOME = st.tuples(st.integers(1, 500), st.floats(0, 1), st.floats(0, 1)).map(
    lambda one: Stratum(one[0], round(one[0] * one[1]), round(round(one[0] * one[1]) * one[2]))
)


@given(st.lists(SOME, max_size=12))
def test_no_strata_make_an_interval_that_misses_its_own_value(strata: list[Stratum]) -> None:
    share, turned = stratified(strata), stratified([one.turned for one in strata])
    assert 0 <= share.low <= share.high <= 1
    assert share.value is None or share.low <= share.value <= share.high
    assert (1 - turned.high, 1 - turned.low) == pytest.approx((share.low, share.high), abs=1e-9)
    wider = stratified(strata, 0.99)
    assert wider.low <= share.low + 1e-9 and share.high <= wider.high + 1e-9


def test_rates_are_not_mistaken_for_each_other() -> None:
    generator = random.Random(4)
    acted = [generator.random() < 0.7 for _ in range(500)]
    right = [generator.random() < (0.9 if one else 0.4) for one in acted]
    (tn, fp), (fn, tp) = confusion_matrix(right, acted).tolist()
    hits, held = [Stratum(tp + fp, tp + fp, fp)], [Stratum(tn + fn, tn + fn, tn)]
    assert false_discovery_rate(hits).value == pytest.approx(fp / (fp + tp))
    assert precision(hits).value == pytest.approx(tp / (fp + tp))
    assert false_positive_rate(hits, held).value == pytest.approx(fp / (fp + tn))
    assert recall(hits, held).value == pytest.approx(tp / (tp + fn))
    assert counted(sum(acted), 500) == Share(*[(tp + fp) / 500] * 3, 500, 500)


def test_a_false_positive_rate_without_any_wrong_one_is_undefined_and_not_zero() -> None:
    assert false_positive_rate([Stratum(90, 20, 0)], [Stratum(10, 5, 0)]) == Share(None, 0.0, 1.0, 25, 100)
    none_acted = false_positive_rate([], [Stratum(40, 20, 12)])
    assert none_acted[:3] == pytest.approx((0.0, 0.0, 0.0))
    unknown = false_positive_rate([Stratum(90, 0, 0)], [Stratum(40, 20, 12)])
    assert unknown.high > 0.7, "what nobody audited may be wrong"


World = tuple[tuple[str, float, int, float], ...]
"""Kind, confidence, number and mean share of wrong ones of outcomes that are alike."""
SHIFTING: World = (
    ("acted", 0.95, 400, 0.02),
    ("acted", 0.85, 180, 0.08),
    ("handed_over", 0.75, 120, 0.35),
    ("handed_over", 0.4, 50, 0.7),
    ("abstained", 0.3, 20, 0.8),
)
SMALL = tuple((kind, confidence, size // 8, share) for kind, confidence, size, share in SHIFTING)
RARE = tuple((kind, confidence, size, share / 4) for kind, confidence, size, share in SHIFTING)
WORSE = tuple((kind, confidence, size, min(share * 2, 0.9)) for kind, confidence, size, share in SHIFTING)
Audited = dict[str, list[tuple[Stratum, int]]]


@cache
def audited(world: World, budget: int, number: int) -> Audited:
    """Strata as the plan draws them in one made-up week, each with the number of all its wrong ones, by kind."""
    generator = random.Random(f"{number} {budget}")
    found, names, wrong = [], Counter[str](), set()
    for kind, confidence, size, share in world:
        name = stratum(kind, "mail", "1", confidence, 0.8)
        names[name] += size
        ids = range(len(found), len(found) + size)
        bad = round(size * share * generator.uniform(0.6, 1.4) + generator.random() - 0.5)
        wrong |= set(generator.sample(ids, min(max(bad, 0), size)))
        found += [(one, name) for one in ids]
    made = plan([Cell(name, size) for name, size in names.items()], budget)
    drawn = draw(found, made, f"week {number}")
    strata: Audited = {"acted": [], "held": []}
    for name, size in made.of.items():
        hits = sum(one in wrong for one, had in drawn.items() if had.stratum == name)
        true = sum(one in wrong for one, cell in found if made.into[cell] == name)
        kind = "acted" if name.startswith("acted") else "held"
        strata[kind].append((Stratum(size, made.take[name], hits), true))
    return strata


def of_all(strata: list[tuple[Stratum, int]]) -> tuple[list[Stratum], int, int]:
    return [one for one, _ in strata], sum(true for _, true in strata), sum(one.population for one, _ in strata)


def discovery(one: Audited) -> tuple[Share, float]:
    strata, wrong, size = of_all(one["acted"])
    return false_discovery_rate(strata), wrong / size


def positives(one: Audited) -> tuple[Share, float]:
    (acted, wrong, _), (held, negative, _) = of_all(one["acted"]), of_all(one["held"])
    return false_positive_rate(acted, held), wrong / (wrong + negative)


def recalled(one: Audited) -> tuple[Share, float]:
    (acted, wrong, size), (held, negative, beside) = of_all(one["acted"]), of_all(one["held"])
    return recall(acted, held), (size - wrong) / (size - wrong + beside - negative)


@pytest.mark.parametrize("estimated", [discovery, positives, recalled])
@pytest.mark.parametrize(
    ("world", "budget", "most"),
    [(SHIFTING, 60, 0.985), (SHIFTING, 25, 0.99), (SMALL, 40, 0.995), (RARE, 60, 0.995)],
    ids=["60 a week", "25 a week", "small", "rare"],
)
def test_intervals_cover_as_often_as_they_say_under_the_plan(
    estimated: Callable[[Audited], tuple[Share, float]],
    world: World,
    budget: int,
    most: float,
) -> None:
    covered = 0
    for number in range(WORLDS):
        share, true = estimated(audited(world, budget, number))
        covered += share.low - 1e-9 <= true <= share.high + 1e-9
    assert 0.92 <= covered / WORLDS <= most


def test_a_change_covers_as_often_as_it_says_and_keeps_its_direction() -> None:
    covered = 0
    for number in range(WORLDS):
        now, wrong, size = of_all(audited(SHIFTING, 60, number)["acted"])
        before, other, had = of_all(audited(WORSE, 60, number + WORLDS)["acted"])
        made = change(now, before)
        covered += made.low - 1e-9 <= wrong / size - other / had <= made.high + 1e-9
    assert 0.92 <= covered / WORLDS <= 0.99
    worse = change([Stratum(1000, 100, 30)], [Stratum(1000, 100, 5)])
    assert worse.value == pytest.approx(0.25) and 0.1 < worse.low < 0.25 < worse.high < 0.4


def pairs_of(table: list[list[int]]) -> list[tuple[int, int]]:
    return [(a, b) for a, row in enumerate(table) for b, count in enumerate(row) for _ in range(count)]


@pytest.mark.parametrize(
    "table", [[[20, 5], [10, 15]], [[45, 15], [25, 15]], [[25, 35], [5, 35]], [[3, 1, 0], [2, 9, 4], [0, 5, 8]]]
)
def test_kappa_does_not_differ_from_sklearns(table: list[list[int]]) -> None:
    pairs = pairs_of(table)
    found = kappa(pairs)
    assert found and found.pairs == len(pairs)
    assert found.value == pytest.approx(cohen_kappa_score(*np.array(pairs).T))
    assert found.low < found.value < found.high


def test_kappa_of_the_published_examples() -> None:
    # Of the usual three examples of Cohen's kappa: the same agreement, less of it by chance in the last.
    published = {0.4: [[20, 5], [10, 15]], 0.1304: [[45, 15], [25, 15]], 0.2593: [[25, 35], [5, 35]]}
    for value, table in published.items():
        found = kappa(pairs_of(table))
        assert found and found.value == pytest.approx(value, abs=1e-4)


def test_kappa_is_undefined_where_both_know_one_label_and_unsure_where_all_agree() -> None:
    assert kappa([("right", "right")] * 30) is None
    found = kappa([("right", "right")] * 15 + [("wrong", "wrong")] * 5)
    assert isinstance(found, Kappa) and found.value == 1.0 == found.high
    assert 0.4 < found.low < 0.8


def test_kappa_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    both, neither, one = 0.095, 0.865, 0.02
    chance = (both + one) ** 2 + (neither + one) ** 2
    true = (both + neither - chance) / (1 - chance)
    covered = 0
    for counts in generator.multinomial(60, [both, one, one, neither], size=800).tolist():
        found = kappa(pairs_of([counts[:2], counts[2:]]))
        covered += found is not None and found.low <= true <= found.high
    assert 0.925 <= covered / 800 <= 0.98
