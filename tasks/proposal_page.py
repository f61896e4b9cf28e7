"""Proposals as people read them in the report: what a skill could learn, and what it could leave to people."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.ledger.proposals import Proposal
from tasks.links import literally, table

APPROVING = (
    "Cases that people told, to read others by. Each proposal was replayed on held-out cases, without it and with it: "
    "how many are read rightly, what was gained and lost, the chance of that if it did not help (exact, one-sided), "
    "and the change with its 95 % interval. What is *proposed* counts after the form `approve`, or `python -m "
    "deployments approve PROPOSAL`; `decline` refuses it, `revert AGENT SKILL --lessons` takes the newest back."
)
RULING = (
    "Answers that came out wrong so often that their cases could be handed over, however sure the skill is, and rules "
    "that could be lifted. Each was examined on drawn cases that were not shown to whoever proposed it: how many were "
    "wrong, their share of all such cases weighted by the chance of each, the chance of so many wrong (lifting: so "
    "few) if the share were the target (exact, one-sided), and how many of all cases the rule moves, with 95 % "
    "intervals. `approve` and `decline` as above; `revert AGENT SKILL --rules` takes the newest back."
)


def parts(learning: Sequence[Proposal]) -> list[str]:
    """What of the report there is to say of these."""
    examples = [one for one in learning if one.rule is None]
    rules = [one for one in learning if one.rule is not None]
    found = ["## What it could learn", _examples(examples), APPROVING] if examples else []
    return found + (["## What it could leave to people", _rules(rules), RULING] if rules else [])


def _examples(learning: Sequence[Proposal]) -> str:
    rows = []
    for one in learning:
        figures = ["not replayed"] + [""] * 4
        if (found := one.replay) is not None and found.difference is not None:
            rates = f"{found.difference:+.1%} ({found.low:+.1%} to {found.high:+.1%})"
            changed = f"{found.gained} and {found.lost}"
            figures = [
                f"{found.held_out}",
                f"{found.right_before} to {found.right_after}",
                changed,
                f"{found.p:.3f}",
                rates,
            ]
        cases = f"{len(one.examples)} ({len(one.evidence)} came out wrong)"
        rows.append((str(one.id), _state(one), one.skill, cases, *figures))
    names = ("proposal", "state", "skill", "cases", "held out", "read rightly", "gained and lost", "p", "change")
    return table(names, rows)


def _rules(proposed: Sequence[Proposal]) -> str:
    rows = []
    for one in proposed:
        figures = ["0"] + ["not known"] * 4
        if (found := one.exam) is not None and found.share is not None and found.moved is not None:
            figures = [
                f"{found.held_out}",
                f"{found.wrong}",
                f"{found.share:.1%} ({found.low:.1%} to {found.high:.1%})",
                f"{found.p:.3f}",
                f"{found.moved:.1%} ({found.moved_low:.1%} to {found.moved_high:.1%}) of {found.of:,}",
            ]
        evidence = ", ".join(str(case) for case in one.evidence[:5])
        seen = f"{len(one.evidence)}: {evidence}{' ...' if len(one.evidence) > 5 else ''}"
        rows.append((str(one.id), _state(one), one.skill, literally(str(one)), seen, *figures))
    names = ("proposal", "state", "skill", "rule", "by cases", "held out", "wrong", "share", "p", "moves")
    return table(names, rows)


def _state(one: Proposal) -> str:
    return f"{one.state} by {one.who}" if one.who else one.state
