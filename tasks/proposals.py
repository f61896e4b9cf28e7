"""What people told is proposed to each skill as examples, tried on cases held out, and learnt if it helps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy import Connection

from tasks.audits import WHO, Change, settings
from tasks.errors import BadInput
from tasks.home import taught
from tasks.knowledge import Knowledge
from tasks.ledger import Ledger
from tasks.ledger.lessons import lessons_up_to, newest
from tasks.ledger.proposals import Proposal, Told, decide, same_as, spoken_for, told_by_people
from tasks.ledger.proposals import propose as enter
from tasks.ledger.reviewed import Window
from tasks.model import has_key
from tasks.records import CaseId
from tasks.replay import parted, replay

BEYOND_CHANCE = 0.05
"""A proposal becomes active by itself if its exam's one-sided exact p is at most this.

Nothing less would do for a small batch, and nothing more: one that shows no help yet stays open, and the next review
proposes its cases together with what people told since. So a batch grows until its help can be seen, and what never
helps waits for a person. Simulated in tests/test_replay.py, 26 weekly looks at an exam of 500 that share most of their
cases: LOOKS
"""

Knows = Callable[[str], Knowledge | None]
"""What the embedded model reads by for a skill; None if it does not."""


async def propose(ledger: Ledger, window: Window, review: int, change: bool, knows: Knows) -> list[Change]:
    """Propose to each skill what people told, and with `change` let it learn what its exam shows to help."""
    agent = await ledger.read("read the agent", lambda c: settings(c, window.agent))
    told: defaultdict[str, list[Told]] = defaultdict(list)
    # Not only of what was drawn: a memory is no estimate, so whoever looks of his own accord teaches it too. And of all
    # times: a case that was held out until it had served is older than any window.
    ever = window._replace(since=0.0)
    for one in await ledger.read("read what people said", lambda c: told_by_people(c, ever)):
        told[one.skill].append(one)
    changes = []
    for skill, rows in sorted(told.items()):
        if has_key() or agent.models:
            said = f"Claude reads for {skill}: the {len(rows)} case(s) that people told teach the embedded model only"
            changes.append(Change(skill, said, False))
            continue
        try:
            said = await _to_skill(ledger, window.agent, skill, rows, review, change, knows(skill))
        except BadInput as why:
            said = f"{skill} learns nothing: {why}"
        if said:
            changes.append(Change(skill, said, False))
    return changes


async def _to_skill(
    ledger: Ledger, agent: str, skill: str, told: Sequence[Told], review: int, change: bool, knowledge: Knowledge | None
) -> str:
    """What was proposed, and what became of it; '' if there is nothing new."""
    if knowledge is None:
        return f"{skill} learns nothing from {len(told)} case(s) that people told: it has no `knowledge()`"

    def look(c: Connection) -> tuple[list[Told], list[Told], Proposal | None]:
        proposed, refused = spoken_for(c, agent, skill)
        known = {one.case: one.label for one in lessons_up_to(c, agent, skill, newest(c, agent, skill))}
        exam, shown = parted(told, proposed)
        more = [one for one in shown if known.get(one.case) != one.label and (one.case, one.label) not in refused]
        return exam, more, same_as(c, agent, skill, _pairs(more))

    exam, more, found = await ledger.read(f"look what {skill} could learn", look)
    if not more:
        return ""
    examples = _pairs(more)
    if found is None:
        done = await replay(ledger, agent, skill, knowledge, examples, exam)
        evidence = [one.case for one in more if not one.right]
        given = partial(
            enter, agent=agent, skill=skill, examples=examples, evidence=evidence, review=review, replay=done
        )
        found = await ledger.write(f"propose to {skill}", given)
    return await _by_the_rule(ledger, found, change)


async def _by_the_rule(ledger: Ledger, found: Proposal, change: bool) -> str:
    helps = found.replay is not None and found.replay.p <= BEYOND_CHANCE
    if found.state == "proposed" and change and helps:
        why = f"it helps beyond chance: {found.replay}"
        if await ledger.write(f"approve proposal {found.id}", lambda c: decide(c, found.id, True, WHO, why)):
            taught().touch()
        return (
            f"{found.skill} learnt {len(found.examples)} case(s) that people told, proposal {found.id}: {found.replay}"
        )
    if found.state != "proposed":
        return ""
    rest = "it would learn them" if helps else "not beyond chance, so it waits for more or for a person"
    return f"{found.skill} could learn {len(found.examples)} case(s), proposal {found.id}: {found.replay}; {rest}"


def _pairs(told: Sequence[Told]) -> list[tuple[CaseId, str]]:
    return [(one.case, one.label) for one in told]
