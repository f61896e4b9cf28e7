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
from tasks.ledger.proposals import Proposal, Told, decide, spoken_for, told_by_people, waiting
from tasks.ledger.proposals import propose as enter
from tasks.ledger.reviewed import Window
from tasks.model import has_key
from tasks.replay import parted, replay

BEYOND_CHANCE = 0.05
"""A proposal becomes active by itself if its exam's one-sided exact p is at most this; else it waits for a person."""
GROWN = 1.5
"""While one waits, the next is made when there are so many times its cases, and has all of them.

So a batch grows until its help can be seen, and chance has few exams to win: simulated in tests/test_replay.py, half a
year of exams every week lets in half of the batches that do nothing, and these few let in one in five. Of those by
which one case in a hundred more is read wrongly they let in one in thirty.
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
        return exam, more, waiting(c, agent, skill)

    exam, more, found = await ledger.read(f"look what {skill} could learn", look)
    if more and (found is None or len(more) >= GROWN * len(found.examples)):
        examples = [(one.case, one.label) for one in more]
        done = await replay(ledger, agent, skill, knowledge, examples, exam)
        evidence = [one.case for one in more if not one.right]
        given = partial(
            enter, agent=agent, skill=skill, examples=examples, evidence=evidence, review=review, replay=done
        )
        found = await ledger.write(f"propose to {skill}", given)
    return "" if found is None else await _by_the_rule(ledger, found, change)


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
    rest = "it would learn them" if helps else "not beyond chance, so it waits for more cases or a person"
    return f"{found.skill} could learn {len(found.examples)} case(s), proposal {found.id}: {found.replay}; {rest}"
