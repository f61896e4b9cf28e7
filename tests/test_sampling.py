"""A plan spends no more than its budget, leaves nobody out, and draws the same outcomes when it is repeated."""

from __future__ import annotations

import random
import subprocess
import sys
import tracemalloc
from collections import Counter
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.sampling import LONGEST, Cell, Drawn, Plan, draw, plan, stratum

CELLS = [
    Cell("acted/mail/1/far above", 800, 40, 1),
    Cell("acted/mail/1/near above", 200, 40, 4),
    Cell("handed_over/mail/1/near below", 150, 20, 8),
    Cell("handed_over/mail/1/far below", 90, 10, 7),
    Cell("abstained/mail/1/unsaid", 3),
]
PARTS = st.tuples(
    st.sampled_from(["acted", "handed_over", "abstained"]),
    st.sampled_from(["mail", "call", "chat"]),
    st.sampled_from(["1", "2"]),
    st.sampled_from(["near above", "far above", "near below", "unsaid"]),
)
NAMED = st.dictionaries(PARTS.map("/".join), st.tuples(st.integers(0, 400), st.integers(0, 60), st.floats(0, 1)))


def outcomes(cells: list[Cell]) -> list[tuple[int, str]]:
    names = [one.name for one in cells for _ in range(one.population)]
    return list(enumerate(names, 1))


def cells_of(named: dict[str, tuple[int, int, float]]) -> list[Cell]:
    return [Cell(name, size, audited, round(audited * share)) for name, (size, audited, share) in named.items()]


@settings(max_examples=200, deadline=None)
@given(NAMED, st.integers(3, 300), st.integers(1, 6))
def test_no_plan_passes_its_budget_or_leaves_a_stratum_out(
    named: dict[str, tuple[int, int, float]], budget: int, least: int
) -> None:
    cells = cells_of(named)
    kinds = {one.name.partition("/")[0] for one in cells if one.population}
    if budget < least * len(kinds):
        return
    made = plan(cells, budget, least)
    assert sum(made.take.values()) == min(budget, sum(one.population for one in cells))
    for name, count in made.take.items():
        assert min(least, made.of[name]) <= count <= made.of[name]
    assert set(made.into) == {one.name for one in cells if one.population}
    for cell, name in made.into.items():
        assert cell == name or cell.startswith(f"{name}/")


def test_a_budget_that_reaches_keeps_every_stratum_apart() -> None:
    made = plan(CELLS, 40)
    assert made.into == {one.name: one.name for one in CELLS}


def test_a_small_budget_puts_the_smallest_together_and_never_acted_ones_with_others() -> None:
    assert plan(CELLS, 18).into == {one.name: one.name for one in CELLS} | {
        "handed_over/mail/1/near below": "handed_over/mail/1",
        "handed_over/mail/1/far below": "handed_over/mail/1",
    }
    made = plan(CELLS, 13)
    assert made.of == {"acted/mail/1": 1000, "handed_over/mail/1": 240, "abstained/mail/1/unsaid": 3}


def test_versions_are_put_together_before_skills() -> None:
    names = ["acted/a/1/unsaid", "acted/a/2/unsaid", "acted/b/1/unsaid"]
    made = plan([Cell(name, 50) for name in names], 10)
    assert made.of == {"acted/a": 100, "acted/b/1/unsaid": 50}
    assert plan([Cell(name, 50) for name in names], 5).of == {"acted": 150}


def test_a_budget_below_the_kinds_is_refused_and_not_passed() -> None:
    with pytest.raises(ValueError, match="12 audits do not reach for 5"):
        plan(CELLS, 12)


def test_a_stratum_that_was_counted_twice_is_refused_and_not_dropped() -> None:
    with pytest.raises(ValueError, match="twice"):
        plan([*CELLS, CELLS[0]], 40)


def test_audits_go_where_they_teach_most() -> None:
    same = [Cell("acted/a/1/far above", 500, 50, 1), Cell("acted/b/1/far above", 500, 50, 12)]
    made = plan(same, 60).take
    assert made["acted/b/1/far above"] > 1.5 * made["acted/a/1/far above"]
    near = [Cell("acted/a/1/far above", 500, 50, 5), Cell("acted/a/1/near above", 500, 50, 5)]
    assert plan(near, 60).take == {"acted/a/1/far above": 24, "acted/a/1/near above": 36}
    large = [Cell("acted/a/1/far above", 900), Cell("acted/b/1/far above", 300)]
    assert plan(large, 60).take == {"acted/a/1/far above": 45, "acted/b/1/far above": 15}


def test_a_stratum_without_any_error_is_still_audited() -> None:
    made = plan([Cell("acted/a/1/far above", 500, 300, 0), Cell("acted/b/1/far above", 500, 300, 150)], 200)
    assert made.take["acted/a/1/far above"] >= 15


def test_a_repeated_draw_in_another_process_and_order_finds_the_very_same() -> None:
    made, all_of_them = plan(CELLS, 60), outcomes(CELLS)
    first = draw(all_of_them, made, "agent 2026-11-23")
    random.Random(1).shuffle(all_of_them)
    assert draw(all_of_them, made, "agent 2026-11-23") == first
    assert draw(all_of_them, made, "agent 2026-11-30").keys() != first.keys()
    again = (
        "from tests.test_sampling import CELLS, draw, outcomes, plan\n"
        "print(list(draw(outcomes(CELLS), plan(reversed(CELLS), 60), 'agent 2026-11-23')))"
    )
    told = subprocess.run([sys.executable, "-c", again], capture_output=True, text=True, check=True).stdout
    assert told.strip() == str(list(first))


def test_a_later_release_draws_what_an_earlier_one_drew() -> None:
    hashed = sorted(range(50), key=lambda one: sha256(f"week:{one}".encode()).hexdigest())
    made = draw([(one, "acted") for one in range(50)], Plan({"acted": 4}, {"acted": 50}, {"acted": "acted"}), "week")
    assert list(made) == sorted(hashed[:4])


def test_every_outcome_of_a_stratum_is_drawn_as_often_as_its_chance_says() -> None:
    made, all_of_them = plan(CELLS, 60), outcomes(CELLS)
    rounds, often = 400, Counter[int]()
    for number in range(rounds):
        drawn = draw(all_of_them, made, f"seed {number}")
        assert Counter(one.stratum for one in drawn.values()) == Counter(made.take)
        often.update(drawn.keys())
    for number, cell in all_of_them:
        chance = made.take[made.into[cell]] / made.of[made.into[cell]]
        assert abs(often[number] / rounds - chance) <= 5.5 * (chance * (1 - chance) / rounds) ** 0.5
    assert draw(all_of_them, made, "s")[1243] == Drawn("abstained/mail/1/unsaid", 1.0)


def test_outcomes_that_nobody_counted_are_refused_because_chances_would_be_wrong() -> None:
    made, all_of_them = plan(CELLS, 60), outcomes(CELLS)
    with pytest.raises(ValueError, match="has 799 outcomes, but 800 were counted"):
        draw(all_of_them[1:], made, "s")
    with pytest.raises(ValueError, match="nobody counted acted/mail/2/unsaid"):
        draw([*all_of_them, (9999, "acted/mail/2/unsaid")], made, "s")


def test_a_large_draw_keeps_only_what_it_takes() -> None:
    size = 60_000
    made = Plan({"acted": 50}, {"acted": size}, {"acted": "acted"})
    tracemalloc.start()
    drawn = draw(((number, "acted") for number in range(size)), made, "s")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(drawn) == 50
    assert peak < 60_000  # bytes: not even one for each outcome


def test_names_of_strata_fit_and_tell_apart_what_is_not_the_same() -> None:
    long = [stratum("handed_over", "s" * 80 + end, "v" * 40, 0.123456789, 0.5) for end in "ab"]
    assert all(len(one) <= LONGEST for one in long) and len(set(long)) == 2
    assert stratum("acted", "a/b", "1", None) != stratum("acted", "a", "b/1", None)
    assert stratum("acted", "a/b", "1", None).count("/") == 3
    assert stratum("acted", "mail", "1", None, 0.8) == "acted/mail/1/unsaid"


@pytest.mark.parametrize(
    ("confidence", "band"),
    [(0.95, "far above"), (0.9, "near above"), (0.8, "near above"), (0.7, "near below"), (0.6, "far below")],
)
def test_a_confidence_at_the_threshold_is_near_and_above_it(confidence: float, band: str) -> None:
    assert stratum("acted", "mail", "1", confidence, 0.8) == f"acted/mail/1/{band}"


def test_without_a_threshold_every_confidence_has_a_band() -> None:
    found = [stratum("acted", "mail", "1", one).rpartition("/")[2] for one in (0.0, 0.49, 0.5, 0.94, 0.95, 1.0)]
    assert found == ["from 0", "from 0", "from 0.5", "from 0.9", "from 0.95", "from 0.95"]
