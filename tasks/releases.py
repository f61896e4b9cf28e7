"""What a review makes of versions that are tried out: promoted, taken back, or watched for longer, by its intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection

from tasks.audits import WHO, Change
from tasks.figures import strata
from tasks.ledger import Ledger
from tasks.ledger.releases import Rehearsed, Release, Stage, rehearsed_by, releases_of, set_stage
from tasks.ledger.reviewed import Audited, Cell, Window, audited
from tasks.ledger.reviewed import count as count_cells
from tasks.records import CaseId
from tasks.statistics import Difference, Stratum, newcombe
from tasks.statistics import change as difference

WORSE = 0.02
"""A version may be wrong of what it acts on by so much more, at the most, to be promoted."""
LESS = 0.05
"""A version may act on so much less of all cases, at the most."""
ENOUGH = 20
"""Fewer audits of what a version acted on promote nothing, whatever they found."""
LEVEL = 0.99
"""Of the intervals that a ruling goes by: a trial is looked at again and again, and chance has its chance each time.

Simulated in tests/test_releases_chance.py, trials of 26 weeks with two looks a week at the last eight and 10 to 50
audits a week of each version, 8 % wrong: one that is as good is taken back in 7 % of the trials (with intervals of 95 %
in 20 to 21 %) and promoted in 11 to 35 %; one that is wrong by `WORSE` more is promoted in 4 to 5 % (16 to 20 % at
95 %), by 5 points more in less than 1 %. The price is time: one that is better by 5 points is promoted in 73 to 100 %,
half of those by week 12 with 10 audits a week and by week 6 with 50.
"""
FIRST_SHARE = 0.1
"""Of the cases, for a canary that was a shadow."""


class Beside(NamedTuple):
    """A version beside the one that is live, over the same weeks."""

    wrong: Difference
    """The false-discovery rate of the new one minus the other's."""
    covered: Difference
    """What it acts on of all, minus what the other does."""
    answered: int
    """Audits of what the new one acted on, that people answered."""


def ruling(found: Beside, next_stage: Stage) -> tuple[Stage | None, str]:
    """The stage that a version shall have by its intervals of `LEVEL`, None for the one it has; and why.

    Taken back if it is more often wrong, or acts on more than `LESS` less, beyond chance. Promoted after `ENOUGH`
    audits if it can be ruled out that it is wrong by more than `WORSE` more and acts on more than `LESS` less.
    """
    said = f"wrong of acted {_points(found.wrong)}, coverage {_points(found.covered)}, {found.answered} audits"
    if found.wrong.low > 0:
        return "retired", f"it is wrong more often: {said}"
    if found.covered.high < -LESS:
        return "retired", f"it acts on less: {said}"
    if found.answered < ENOUGH:
        return None, f"too few audits yet: {said}"
    if found.wrong.high <= WORSE and found.covered.low >= -LESS:
        return next_stage, f"it is not worse: {said}"
    return None, f"not decided yet: {said}"


def _points(found: Difference) -> str:
    if found.value is None:
        return "not known"
    return f"{100 * found.value:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


async def rule(ledger: Ledger, window: Window, review: int, change: bool) -> list[Change]:
    """Rule on each version that is a canary or a shadow; with `change` the ruling counts from the next case on."""
    said = await ledger.read("read the releases", lambda c: _rulings(c, window))
    changes = []
    for one, stage, why in said:
        name = f"{one.skill} {one.version}"
        if stage is None:
            changes.append(Change(one.skill, f"{name} stays {one.stage}: {why}.", False))
            continue
        share = FIRST_SHARE if stage == "canary" else 0.0
        given: dict[str, Any] = dict(agent=window.agent, skill=one.skill, version=one.version, stage=stage)
        if change:
            moved = partial(set_stage, **given, share=share, who=WHO, why=why, review=review)
            await ledger.write(f"make {name} {stage}", moved)
        changes.append(
            Change(one.skill, f"{name} {'is' if change else 'would be'} {stage}: {why}.", stage == "retired")
        )
    return changes


def _rulings(c: Connection, window: Window) -> list[tuple[Release, Stage | None, str]]:
    found: list[tuple[Release, Stage | None, str]] = []
    for one in releases_of(c, window.agent, window.as_of):
        if one.stage not in ("canary", "shadow"):
            continue
        since = Window(window.agent, max(window.since, one.at), window.until, window.as_of)
        if since.since >= since.until:
            found.append((one, None, "no full week has passed yet"))
            continue
        drawn = [row for row in audited(c, since) if row.skill == one.skill]
        if one.stage == "canary":
            found.append((one, *ruling(_canary(one, drawn, count_cells(c, since)), "live")))
        else:
            found.append((one, *ruling(_shadow(drawn, rehearsed_by(c, one)), "canary")))
    return found


def _canary(one: Release, drawn: Sequence[Audited], cells: Sequence[Cell]) -> Beside:
    """Cases were given to it by their ids, so that the others of the same weeks are what it is compared with."""
    mine = [row for row in drawn if row.version == one.version]
    others = [row for row in drawn if row.version != one.version]
    of = [cell for cell in cells if cell.skill == one.skill]

    def acted(own: bool) -> tuple[int, int]:
        some = [cell for cell in of if (cell.version == one.version) is own]
        return sum(cell.outcomes for cell in some if cell.kind == "acted"), sum(cell.outcomes for cell in some)

    return _beside(mine, others, newcombe(*acted(True), *acted(False), LEVEL))


def _shadow(drawn: Sequence[Audited], seen: Mapping[CaseId, Rehearsed]) -> Beside:
    """Both concluded about the same cases, so that an audit of the one says what it would have said of the other."""
    both = [(row, seen[row.case]) for row in drawn if row.case in seen]
    mine = [row._replace(kind=other.kind, right=_right(row, other.answer)) for row, other in both]
    acted = sum(one.kind == "acted" for one in seen.values()), sum(one.live == "acted" for one in seen.values())
    return _beside(mine, [row for row, _ in both], newcombe(acted[0], len(seen), acted[1], len(seen), LEVEL))


def _right(row: Audited, answer: str) -> bool | None:
    """Whether another answer would have been right, by what people said of this one; None if that does not tell."""
    if answer == row.answer or row.right is None:
        return row.right
    return False if row.right else answer == row.label if row.label else None


def _beside(mine: Sequence[Audited], others: Sequence[Audited], covered: Difference) -> Beside:
    acted = [one for one in mine if one.kind == "acted"]
    wrong = difference(_endless(acted), _endless(one for one in others if one.kind == "acted"), LEVEL)
    return Beside(wrong, covered, sum(one.right is not None for one in acted))


def _endless(rows: Iterable[Audited]) -> list[Stratum]:
    """As parts of an endless population: what is asked is how a version will do, not how it did in these weeks."""
    return [one._replace(population=one.population * 1_000_000) for one in strata(rows)]
