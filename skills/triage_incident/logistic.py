"""Judges an alert by stated weights; the confidence is what they come to, and a half where the agent was blind."""

from __future__ import annotations

import math
from collections.abc import Sequence

from skills.triage_incident.findings import Alert, Correlated, Fact, Gathered, Judgement
from tasks.records import Evidence

CITED = 8
BLIND = 0.5  # nobody may be sure who could not look


def by_features(alert: Alert, found: Gathered, said: Correlated) -> Judgement:
    """What the facts come to: a logistic of the sum of their weights."""
    chance = 1 / (1 + math.exp(-sum(one.weight for one in said.facts)))
    needed = chance >= 0.5 or alert.severity == "critical"
    sure = chance if needed else 1 - chance
    if blind(found):
        sure = min(sure, BLIND)
    leading = "A person is needed" if needed else "No person is needed"
    return Judgement(
        severity=alert.severity,
        needed=needed,
        confidence=round(sure, 3),
        quiet="silence" if said.nuisance and said.quiet else "note",
        minutes=said.minutes,
        summary=f"{leading}: by the stated weights the chance that one is needed is {chance:.0%}.",
        evidence=cited(said.facts),
    )


def blind(found: Gathered) -> bool:
    """Whether what was to be looked at could not be."""
    return found.watched and bool(found.blind) and (found.near is None or not found.near.points)


def cited(facts: Sequence[Fact]) -> tuple[Evidence, ...]:
    """The facts as evidence, those that decide first; weights are shares of all that spoke."""
    all_of_it = sum(abs(one.weight) for one in facts) or 1.0
    first = sorted(facts, key=lambda one: -abs(one.weight))[:CITED]
    return tuple(
        Evidence(source=one.source, text=one.text, weight=round(min(1.0, abs(one.weight) / all_of_it), 3))
        for one in first
    )
