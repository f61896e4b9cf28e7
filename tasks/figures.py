"""What a review says of a window: counts, and rates with their intervals, of every skill, version, intent and week.

An outcome is positive if the agent acted. Whether that was right, or would have been, is what people found about those
outcomes that a plan drew; each of them stands for as many as its chance says. Verdicts on others do not enter a rate,
because whoever looks of his own accord looks where something is wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from tasks.ledger.reviewed import BANDS, Audited, Cell, Wrong, name_of
from tasks.prices import NANO
from tasks.statistics import (
    Difference,
    Kappa,
    Share,
    Stratum,
    change,
    counted,
    false_discovery_rate,
    false_positive_rate,
    kappa,
    precision,
    recall,
    stratified,
)

MINUTES = 6.0
"""That a person would have needed for a case which the agent settled rightly: an assumption, and shown as one."""


class Line(NamedTuple):
    """One row of the table; empty names stand for all."""

    skill: str
    version: str
    answer: str
    outcomes: int
    acted: int
    handed_over: int
    abstained: int
    asked: int
    """Outcomes that somebody was asked about, or that belong to a stratum of which people told all unasked."""
    answered: int
    """Of those: which people have a joint word on."""
    coverage: Share
    """Acted, of all."""
    escalation: Share
    """Handed over, of all."""
    wrong: Share
    """The false-discovery rate: wrong, of what was acted on. FP / (FP + TP)."""
    precision: Share
    """Right, of what was acted on. TP / (TP + FP)."""
    false_positives: Share
    """The false-positive rate: acted on, of all on which acting is wrong. FP / (FP + TN)."""
    recall: Share
    """Acted on, of all on which acting is right. TP / (TP + FN)."""
    usd: float
    """What model calls cost: of an intent those of the cases that came out so, of all others also of open cases."""
    usd_per_right: float | None
    """For each case that was acted on rightly, as estimated; None if there was none."""
    hours_saved: float
    """`MINUTES` for each of those."""


class Week(NamedTuple):
    """One point of the trend."""

    week: str
    outcomes: int
    acted: int
    asked: int
    answered: int
    coverage: Share
    wrong: Share


class Step(NamedTuple):
    """From one version of a skill to the next."""

    skill: str
    before: str
    now: str
    wrong: Difference
    """The false-discovery rate now minus before."""


class Figures(NamedTuple):
    """All that a review found."""

    total: Line
    lines: list[Line]
    """By skill, by version, by intent, in this order."""
    weeks: list[Week]
    steps: list[Step]
    reliability: list[tuple[float, Share]]
    """The middle of each band of confidence, and how much of it was right."""
    people_agree: Kappa | None
    judge_agrees: Kappa | None
    """A judge's word with people's; without it a judge counts for nothing."""
    worst: list[Wrong]
    unresolved: int
    """Outcomes on which people disagree, as many as say the one as the other: in no rate."""


Pair = tuple[int, str, bool, bool, str]


def strata(rows: Iterable[Audited]) -> list[Stratum]:
    """What was drawn together, in the order of weeks and names; a part of a stratum is as large as its draws say."""
    found: defaultdict[tuple[int, str], list[Audited]] = defaultdict(list)
    for one in rows:
        found[one.week, one.stratum].append(one)
    return [_stratum(found[key]) for key in sorted(found)]


def _stratum(rows: Sequence[Audited]) -> Stratum:
    known = [one.right for one in rows if one.right is not None]
    population = round(sum(1 / one.chance for one in rows))
    return Stratum(max(population, len(known)), len(known), known.count(False))


def figures(
    cells: Sequence[Cell],
    drawn: Sequence[Audited],
    spent: Mapping[tuple[str, str, str | None], int],
    pairs: Sequence[Pair],
    worst: Sequence[Wrong],
    unresolved: int,
) -> Figures:
    """Everything from what was counted and found; the same again from the same."""
    lines = [
        _line(key, cells, drawn, spent)
        for names in (1, 2, 3)
        for key in sorted({(one.skill, one.version, one.answer)[:names] for one in cells})
    ]
    return Figures(
        total=_line((), cells, drawn, spent),
        lines=lines,
        weeks=_weeks(cells, drawn),
        steps=_steps(cells, drawn),
        reliability=_reliability(drawn),
        people_agree=kappa([(a, b) for _, who, a, b, _ in pairs if who == "person"]),
        judge_agrees=kappa([(a, b) for _, who, a, b, _ in pairs if who == "judge"]),
        worst=list(worst),
        unresolved=unresolved,
    )


def _line(
    key: tuple[str, ...],
    cells: Sequence[Cell],
    drawn: Sequence[Audited],
    spent: Mapping[tuple[str, str, str | None], int],
) -> Line:
    mine = [one for one in cells if (one.skill, one.version, one.answer)[: len(key)] == key]
    asked = [one for one in drawn if (one.skill, one.version, one.answer)[: len(key)] == key]
    of = {kind: sum(one.outcomes for one in mine if one.kind == kind) for kind in ("acted", "handed_over", "abstained")}
    total = sum(of.values())
    acted = strata(one for one in asked if one.kind == "acted")
    held = strata(one for one in asked if one.kind != "acted")
    right = precision(acted)
    nano = sum(amount for names, amount in spent.items() if names[: len(key)] == key)
    rightly = (right.value or 0.0) * of["acted"]
    names = (*key, "", "", "")
    return Line(
        skill=names[0],
        version=names[1],
        answer=names[2],
        outcomes=total,
        **of,
        asked=len(asked),
        answered=sum(one.right is not None for one in asked),
        coverage=counted(of["acted"], total),
        escalation=counted(of["handed_over"], total),
        wrong=false_discovery_rate(acted),
        precision=right,
        false_positives=false_positive_rate(acted, held),
        recall=recall(acted, held),
        usd=nano / NANO,
        usd_per_right=nano / NANO / rightly if rightly else None,
        hours_saved=rightly * MINUTES / 60,
    )


def _weeks(cells: Sequence[Cell], drawn: Sequence[Audited]) -> list[Week]:
    found = []
    for week in sorted({one.week for one in cells}):
        asked = [one for one in drawn if one.week == week]
        total = sum(one.outcomes for one in cells if one.week == week)
        acted = sum(one.outcomes for one in cells if one.week == week and one.kind == "acted")
        answered = sum(one.right is not None for one in asked)
        wrong = false_discovery_rate(strata(one for one in asked if one.kind == "acted"))
        found.append(Week(name_of(week), total, acted, len(asked), answered, counted(acted, total), wrong))
    return found


def _steps(cells: Sequence[Cell], drawn: Sequence[Audited]) -> list[Step]:
    """Each version of a skill beside the one that was first seen before it."""
    first: dict[tuple[str, str], int] = {}
    for one in cells:
        first[one.skill, one.version] = min(first.get((one.skill, one.version), one.week), one.week)
    found = []
    for skill in sorted({name for name, _ in first}):
        versions = sorted((at, _natural(version), version) for (name, version), at in first.items() if name == skill)
        for (_, _, before), (_, _, now) in pairwise(versions):
            then = strata(a for a in drawn if (a.skill, a.version, a.kind) == (skill, before, "acted"))
            since = strata(a for a in drawn if (a.skill, a.version, a.kind) == (skill, now, "acted"))
            found.append(Step(skill, before, now, change(since, then)))
    return found


def _natural(version: str) -> tuple[tuple[int, int, str], ...]:
    """So that version 10 comes after 9."""
    return tuple((0, int(one), "") if one.isdigit() else (1, 0, one) for one in version.split("."))


def _reliability(drawn: Sequence[Audited]) -> list[tuple[float, Share]]:
    tenths: defaultdict[int, list[Audited]] = defaultdict(list)
    for one in drawn:
        if one.confidence is not None:
            tenths[min(int(one.confidence * BANDS) // 2, BANDS // 2 - 1)].append(one)
    return [
        ((2 * band + 1) / BANDS, stratified([one.turned for one in strata(tenths[band])])) for band in sorted(tenths)
    ]


def plain(found: Any) -> Any:
    """Figures as JSON has them: names with their values, the same for the same."""
    if isinstance(found, tuple) and hasattr(found, "_asdict"):
        return {name: plain(value) for name, value in found._asdict().items()}
    if isinstance(found, list | tuple):
        return [plain(one) for one in found]
    return found
