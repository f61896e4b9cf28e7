"""A threshold is trusted as often as its guarantee says, and an alarm is not raised by chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import chi2

from tasks.calibration import GRID, Label, alarm, choose
from tasks.sampling import Cell, plan, stratum
from tasks.statistics import Stratum

TARGET, DELTA, IN_USE = 0.05, 0.1, 0.8
Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]
Errs = Callable[[Numbers], Numbers]


def labels(size: int, wrong: int, confidence: float = 0.9, chance: float = 0.2) -> list[Label]:
    return [Label(confidence, number >= wrong, chance) for number in range(size)]


def test_a_faultless_skill_is_not_trusted_before_its_labels_suffice() -> None:
    enough = 47  # the smallest count that bears out 5 % at 90 %: ln(10) / 0.05
    early = choose(labels(enough - 1, 0), TARGET)
    assert (early.threshold, early.more, early.coverage) == (None, 1, 0.0)
    assert "needs 1 more audits" in early.why
    found = choose(labels(enough, 0), TARGET)
    assert found.threshold == 0.9 and found.more == 0 and found.coverage == 1
    assert found.rate == 0 and found.upper == pytest.approx(np.log(10) / enough)


def test_no_label_gives_no_threshold_and_no_rate() -> None:
    found = choose([], TARGET)
    assert (found.threshold, found.rate, found.upper, found.labels, found.more) == (None, None, None, 0, 47)


@pytest.mark.parametrize("wrong", [1, 4, 9])
def test_with_one_weight_the_limit_is_the_exact_one_of_a_count(wrong: int) -> None:
    found = choose(labels(600, wrong), TARGET)
    assert found.upper == pytest.approx(chi2.ppf(0.9, 2 * (wrong + 1)) / 2 / 600)


def test_a_bad_skill_is_told_that_more_audits_will_not_help_and_a_good_one_how_many() -> None:
    bad = choose(labels(300, 30), TARGET)
    assert bad.threshold is None and bad.more is None and "would not help" in bad.why
    good = choose(labels(100, 3), TARGET)
    assert good.threshold is None and good.more is not None
    assert f"needs about {good.more} more audits" in good.why
    rest = good.more
    assert choose(labels(100 + rest, round(3 * (100 + rest) / 100)), TARGET).threshold == 0.9
    size = 100 + rest
    assert TARGET * 0.97 < chi2.ppf(0.9, 2 * (0.03 * size + 1)) / 2 / size <= TARGET


def test_the_lowest_threshold_that_passes_is_chosen_and_none_below_a_failure() -> None:
    good = labels(200, 1, 0.95) + labels(100, 2, 0.85)
    assert choose(good, TARGET).threshold == 0.85
    bad = good + labels(60, 40, 0.7) + labels(3000, 0, 0.6)
    found = choose(bad, TARGET)
    assert found.threshold == 0.85, "below a failure nothing may be tested"
    assert found.coverage == pytest.approx(300 / 3360) and found.labels == 300


def test_one_error_among_the_surest_does_not_end_all() -> None:
    found = choose(labels(50, 1, 0.99) + labels(400, 3, 0.9), TARGET)
    assert found.threshold == 0.9
    many = choose(labels(300, 7, 0.99) + labels(3000, 600, 0.9), TARGET)
    assert many.threshold == 0.99, "with many labels less than the first share suffices"


def test_a_threshold_without_labels_of_its_own_is_not_chosen() -> None:
    assert choose(labels(200, 0, 0.93), TARGET).threshold == 0.93
    assert choose(labels(200, 0, 0.935), TARGET).threshold == 0.93


def test_a_label_at_the_threshold_is_acted_on() -> None:
    for step in (0.29, 0.57, 0.58, 0.83):
        assert choose(labels(200, 0, step), TARGET).threshold == step


def test_rarely_audited_outcomes_count_for_those_that_were_not() -> None:
    often, rarely = labels(400, 2, 0.95, 0.8), labels(20, 4, 0.95, 0.02)
    found = choose(often + rarely, TARGET)
    assert found.threshold is None
    assert found.rate == pytest.approx((2 / 0.8 + 4 / 0.02) / (400 / 0.8 + 20 / 0.02))
    assert choose(often, TARGET).threshold == 0.95


@pytest.mark.parametrize(
    ("target", "delta", "chance"),
    [(0.0, 0.1, 0.5), (1.0, 0.1, 0.5), (0.05, 1.0, 0.5), (0.05, 0.1, 0.0), (0.05, 0.1, 1.1)],
)
def test_what_can_not_be_a_probability_is_refused(target: float, delta: float, chance: float) -> None:
    with pytest.raises(ValueError, match="not"):
        choose([Label(0.9, True, chance)], target, delta)


def drawn(errs: Errs, weeks: int, size: int, budget: int, number: int) -> list[Label]:
    """What the plan has audited of made-up weeks, with what it learned in the weeks before."""
    generator = np.random.default_rng(number)
    known: dict[str, tuple[int, int]] = {}
    found: list[Label] = []
    for _ in range(weeks):
        confidences = spread(generator, size)
        wrong = generator.random(size) < errs(confidences)
        places: dict[str, list[int]] = {}
        for place, one in enumerate(confidences.tolist()):
            kind = "acted" if one >= IN_USE else "handed_over"
            places.setdefault(stratum(kind, "mail", "1", one, IN_USE), []).append(place)
        made = plan([Cell(name, len(mine), *known.get(name, (0, 0))) for name, mine in places.items()], budget)
        together: dict[str, list[int]] = {}
        for name, mine in places.items():
            together.setdefault(made.into[name], []).extend(mine)
        for name, mine in together.items():
            taken = generator.choice(mine, made.take[name], replace=False).tolist()
            found += [Label(float(confidences[one]), not wrong[one], made.take[name] / len(mine)) for one in taken]
            had, bad = known.get(name, (0, 0))
            known[name] = had + len(taken), bad + int(wrong[taken].sum())
    return found


def spread(generator: np.random.Generator, size: int) -> Numbers:
    return np.round(np.minimum(generator.beta(6, 1.3, size=size), 0.999), 2)


MANY = spread(np.random.default_rng(0), 200_000)


def truth(errs: Errs) -> dict[float, tuple[float, float]]:
    """The true false-discovery rate and coverage of every threshold."""
    wrong, acted = errs(MANY), {one: one <= MANY for one in GRID}
    return {one: (float(wrong[above].mean()), float(above.mean())) for one, above in acted.items() if above.any()}


WORLDS: dict[str, Errs] = {
    "honest": lambda one: (1 - one) * 0.5,
    "always just too bad": lambda one: np.full_like(one, TARGET + 0.002),
    "a cliff": lambda one: np.where(one >= IN_USE, 0.02, 0.5),
    "bad where it is surest": lambda one: np.where(one >= 0.93, 0.09, 0.02),
}


@pytest.mark.parametrize("delta", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("name", WORLDS)
def test_a_chosen_threshold_is_too_low_no_more_often_than_stated(name: str, delta: float) -> None:
    true, rounds = truth(WORLDS[name]), 300
    chosen = Counter(
        choose(drawn(WORLDS[name], 4, 150, 40, number), TARGET, delta).threshold for number in range(rounds)
    )
    violations = sum(count for one, count in chosen.items() if one is not None and true[one][0] > TARGET)
    assert violations / rounds <= delta + 2.5 * (delta * (1 - delta) / rounds) ** 0.5


def test_coverage_does_not_collapse_for_a_good_skill() -> None:
    errs: Errs = lambda one: (1 - one) * 0.2  # noqa: E731
    true = truth(errs)
    found = [choose(drawn(errs, 8, 150, 40, number), TARGET, DELTA).threshold for number in range(60)]
    assert np.mean([true[one][1] if one is not None else 0.0 for one in found]) > 0.5


def weeks(shares: tuple[float, float], rounds: int) -> list[list[Stratum]]:
    generator = np.random.default_rng(3)
    sizes = (400, 25), (150, 20)
    return [
        [
            Stratum(size, taken, int(generator.hypergeometric(round(size * share), size - round(size * share), taken)))
            for (size, taken), share in zip(sizes, shares, strict=True)
        ]
        for _ in range(rounds)
    ]


@pytest.mark.parametrize("shares", [(0.05, 0.05), (0.02, 0.13), (0.0675, 0.0)])
def test_an_alarm_at_the_target_is_rarer_than_its_level(shares: tuple[float, float]) -> None:
    rounds = 2000
    raised = sum(alarm(week, TARGET).raised for week in weeks(shares, rounds))
    assert raised / rounds <= 0.01 + 2.5 * (0.01 * 0.99 / rounds) ** 0.5


def test_an_alarm_is_raised_when_a_skill_breaks() -> None:
    assert np.mean([alarm(week, TARGET).raised for week in weeks((0.25, 0.4), 200)]) > 0.9


def test_an_alarm_tells_chance_from_excess_and_silence_from_none() -> None:
    silent = alarm([Stratum(100, 0, 0)], TARGET)
    assert not silent.raised and silent.rate is None and "audited" in silent.why
    few = alarm([Stratum(100, 20, 2)], TARGET)
    assert not few.raised and few.rate == 0.1 and "chance" in few.why
    many = alarm([Stratum(1000, 100, 20)], TARGET)
    assert many.raised and many.lower == pytest.approx(chi2.ppf(0.01, 40) / 2 / 100)
    assert not alarm([Stratum(1000, 100, 20)], 0.15, level=1e-6).raised
    assert "within" in alarm([Stratum(1000, 100, 2)], TARGET).why
