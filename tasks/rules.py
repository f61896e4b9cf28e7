"""Answers that come out wrong too often are proposed to be left to people, and given back when they no longer do."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from scipy.special import betainc, betaincc
from sqlalchemy import Connection

from tasks.audits import WHO, Change, settings, tried_out
from tasks.calibration import Label, choose
from tasks.figures import strata
from tasks.ledger import Ledger
from tasks.ledger.proposals import Proposal, decide, drawn_conversations, last_words, propose_rule, waiting
from tasks.ledger.reviewed import Audited, Cell, Window, audited, band_of
from tasks.ledger.reviewed import count as count_cells
from tasks.ledger.rules import Exam, Rule, held_answers
from tasks.ledger.thresholds import threshold_of
from tasks.proposals import BEYOND_CHANCE, GROWN
from tasks.replay import held_out
from tasks.statistics import false_discovery_rate, wilson

FEW = 5
"""Fewer wrong ones propose no rule, however unlikely they are by chance."""
GIVEN_BACK = 0.025
"""The highest p that lifts a rule: there the same cases sit their exam again, with more beside them.

Simulated in tests/test_rules_chance.py, half-years of two looks a week: an answer that errs as often as the target
allows is given back one time in sixteen, one that errs half as often again one time in 300. To be held at all has two
hurdles, the shown half and the exam, and happened to one that keeps the target in one half-year of 200.
"""
ANSWER = re.compile(r"\w[\w .,/+-]{0,59}")
"""What can be the name of an answer. Other answers are a model's free words, which no second case has."""


class Idea(NamedTuple):
    """A rule that is worth an exam."""

    rule: Rule
    evidence: list[int]
    """Cases, as `Proposal.evidence`."""
    exam: list[Audited]


async def propose_rules(
    ledger: Ledger, window: Window, review: int, target: float, change: bool, can_keep: Callable[[str], bool]
) -> list[Change]:
    """Propose rules on each skill's answers, and with `change` lay those down whose exam is clear."""
    found = await ledger.read("look which answers err", lambda c: _ideas(c, window, target))
    changes = []
    for skill, idea, exam in found:
        if not can_keep(skill):
            said = f"{skill} acts before it concludes, so no rule could make it {idea.rule}: {exam}"
            changes.append(Change(skill, said, False))
            continue
        enter = partial(_entered, agent=window.agent, skill=skill, idea=idea, review=review, exam=exam)
        proposal = await ledger.write(f"propose a rule for {skill}", enter)
        if said := await _decided(ledger, proposal, change):
            changes.append(Change(skill, said, False))
    return changes


def _entered(c: Connection, agent: str, skill: str, idea: Idea, review: int, exam: Exam) -> Proposal:
    """The proposal that waits, or a new one if there is so much more evidence: chance shall have few exams."""
    open_ = waiting(c, agent, skill, idea.rule)
    if open_ is not None and len(set(idea.evidence) - set(open_.evidence)) < (GROWN - 1) * len(open_.evidence):
        return open_
    return propose_rule(c, agent, skill, idea.rule, idea.evidence, review, exam)


async def _decided(ledger: Ledger, found: Proposal, change: bool) -> str:
    if found.state not in ("proposed", "active") or found.exam is None:
        return ""  # a person said no meanwhile
    clear = found.exam.p <= (BEYOND_CHANCE if found.rule and found.rule.held else GIVEN_BACK)
    said = f"{found.skill} {{}} {found.rule}, proposal {found.id}: {found.exam}"
    if found.state == "proposed" and change and clear:
        why = f"beyond chance: {found.exam}"
        await ledger.write(f"approve proposal {found.id}", lambda c: decide(c, found.id, True, WHO, why))
    elif found.state == "proposed":
        rest = "it would" if clear else "not beyond chance, so it waits for more cases or a person"
        return f"{said.format('could')}; {rest}"
    return said.format("is to")


def _ideas(c: Connection, window: Window, target: float) -> list[tuple[str, Idea, Exam]]:
    """What is worth an exam, with that, of each skill: as the window stood, however often it is looked at."""
    agent, tried = settings(c, window.agent), tried_out(c, window)
    # Of drawn cases alone: whoever looks of his own accord looks where something is wrong.
    drawn = [one for one in audited(c, window) if one.right is not None and (one.skill, one.version) not in tried]
    from_ = drawn_conversations(c, window)
    cells = [one for one in count_cells(c, window) if (one.skill, one.version) not in tried]
    found = []
    for skill in sorted({one.skill for one in drawn}):
        threshold = threshold_of(c, window.agent, skill, window.as_of)
        limit = agent.threshold if threshold is None else threshold
        held = held_answers(c, window.agent, skill, window.as_of)
        since = last_words(c, window.agent, skill, window.as_of)
        rows = [one for one in drawn if one.skill == skill and one.kind != "abstained"]
        limits = _limits([one for one in rows if one.answer not in held], limit, target)
        fresh = [
            one
            for one in rows
            if (one.confidence is None or one.confidence >= limits.get(one.answer, limit))
            and from_[one.outcome].at >= since.get(one.answer, 0.0)
            and ANSWER.fullmatch(one.answer)
        ]
        sides = {one.outcome: held_out(from_[one.outcome].conversation) for one in fresh}
        ideas = [
            *to_hold([one for one in fresh if one.answer not in held], sides, target),
            *to_lift([one for one in fresh if one.kind == "handed_over" and one.answer in held], target),
        ]
        mine = [one for one in cells if one.skill == skill]
        found += [(skill, idea, examined(idea, mine, limits.get(idea.rule.answer, limit), target)) for idea in ideas]
    return found


def _limits(rows: Sequence[Audited], now: float, target: float) -> dict[str, float]:
    """From which confidence on each answer that errs would be acted on, if the others alone set the threshold.

    Where its own errors have raised the threshold until nothing is acted on, they have to be seen all the same.
    """
    wrong = Counter(one.answer for one in rows if one.right is False)
    found = {}
    for answer in (one for one, times in wrong.items() if times >= FEW):
        others = [one for one in rows if one.answer != answer and one.confidence is not None]
        labels = [Label(one.confidence or 0.0, bool(one.right), one.chance) for one in others]
        chosen = choose(labels, target).threshold
        found[answer] = now if chosen is None else min(chosen, now)
    return found


def to_hold(rows: Sequence[Audited], sides: Mapping[int, bool], target: float) -> list[Idea]:
    """Answers that by the shown half err more often than the target, beyond chance for all answers together (Holm)."""
    shown: defaultdict[str, list[Audited]] = defaultdict(list)
    exam: defaultdict[str, list[Audited]] = defaultdict(list)
    for one in rows:
        (exam if sides[one.outcome] else shown)[one.answer].append(one)
    chosen = holm({answer: above(*counts(rows), target) for answer, rows in shown.items()})
    ideas = []
    for answer in sorted(chosen):
        wrong = sorted(one.case for one in shown[answer] if one.right is False)
        if len(wrong) >= FEW:
            ideas.append(Idea(Rule(answer, True), wrong, exam[answer]))
    return ideas


def to_lift(handed_over: Sequence[Audited], target: float) -> list[Idea]:
    """Held answers of which enough is known since. All of it is the exam: nobody chose the answer by these cases."""
    known: defaultdict[str, list[Audited]] = defaultdict(list)
    for one in handed_over:
        known[one.answer].append(one)
    enough = {answer for answer, rows in known.items() if below(0, counts(rows)[1], target) <= GIVEN_BACK}
    return [Idea(Rule(a, False), sorted(one.case for one in known[a]), known[a]) for a in sorted(enough)]


def examined(idea: Idea, cells: Sequence[Cell], limit: float, target: float) -> Exam:
    """What people found of the exam's cases, and how many of a skill's cases the rule moves."""
    share = false_discovery_rate(strata(idea.exam))
    wrong = sum(one.right is False for one in idea.exam)
    test = above if idea.rule.held else below
    moved = sum(one.outcomes for one in cells if one.answer == idea.rule.answer and _acts(one, limit))
    of = sum(one.outcomes for one in cells)
    low, high = wilson(moved, of)
    return Exam(
        held_out=len(idea.exam),
        wrong=wrong,
        right=len(idea.exam) - wrong,
        target=target,
        p=test(*counts(idea.exam), target),
        share=share.value,
        low=share.low,
        high=share.high,
        moved=moved / of if of else None,
        moved_low=low,
        moved_high=high,
        of=of,
    )


def _acts(one: Cell, limit: float) -> bool:
    return one.kind == "acted" if one.band < 0 else one.band >= band_of(limit)


def counts(rows: Sequence[Audited]) -> tuple[float, float]:
    """How many are wrong of how many, as a simple sample would have them that says as much.

    Cases are drawn by unequal chances, more of those that are likelier wrong. So the share is weighted, and of as many
    cases as Kish's effective sample size (Korn & Graubard 1998); with equal chances both are the plain counts.
    """
    weights = [1 / one.chance for one in rows]
    total = math.fsum(weights)
    if not rows:
        return 0.0, 0.0
    size = total**2 / math.fsum(one**2 for one in weights)
    wrong = math.fsum(weight for weight, one in zip(weights, rows, strict=True) if one.right is False)
    return size * wrong / total, size


def above(wrong: float, of: float, target: float) -> float:
    """The one-sided exact binomial test: the chance of so many wrong, or more, if the target is their share."""
    return float(betainc(wrong, of - wrong + 1, target)) if wrong > 0 else 1.0


def below(wrong: float, of: float, target: float) -> float:
    """The same of so few, or fewer."""
    return float(betaincc(wrong + 1, of - wrong, target)) if wrong < of else 1.0


def holm(chances: Mapping[str, float], level: float = BEYOND_CHANCE) -> set[str]:
    """Those tests that stand when as many were made (Holm 1979)."""
    found: set[str] = set()
    for place, name in enumerate(sorted(chances, key=lambda one: (chances[one], one))):
        if chances[name] * (len(chances) - place) > level:
            break
        found.add(name)
    return found
