"""The examples that a case is read by: those of its skill's knowledge, and what people taught since."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from tasks.errors import LedgerLost
from tasks.home import taught
from tasks.knowledge import Knowledge
from tasks.ledger import Ledger
from tasks.ledger.agents import all_agents
from tasks.ledger.database import ledger_url
from tasks.ledger.lessons import Lesson, lessons_up_to, newest
from tasks.offline import UNKNOWN, Example
from tasks.working import Hand

KEPT = 8
Known = tuple[tuple[Example, ...], tuple[str, ...]]
"""Examples, and texts that are about nothing the skill knows."""

_known: OrderedDict[tuple[str, str, str, int, str], Known] = OrderedDict()


async def known_to(hand: Hand, knowledge: Knowledge) -> Known:
    """What the case in hand is read by, with the lessons that were there when it was first begun.

    The same objects for the same content, so that a memory of thousands is not compared anew for every case.
    """
    agent, last = hand.work.agent.name, hand.work.policy.lessons
    key = (hand.ledger.url, agent, hand.skill, last, knowledge.digest)
    if key not in _known:
        wanted = partial(lessons_up_to, agent=agent, skill=hand.skill, last=last)
        _keep(key, knowledge, await hand.ledger.read("read lessons", wanted) if last else [])
    _known.move_to_end(key)
    return _known[key]


def known_before(skill: str, knowledge: Knowledge) -> list[Known]:
    """What a new case of each agent that was taught would be read by, for a process that others are forked from.

    It leaves no connection open; none if nobody was ever taught here, or the ledger can not be read now.
    """
    if not taught().exists():
        return []
    ledger, found = Ledger(ledger_url()), []
    try:
        for row in ledger.read_now("list the agents", all_agents):
            last = ledger.read_now("look for lessons", partial(newest, agent=row.name, skill=skill))
            if last:
                wanted = partial(lessons_up_to, agent=row.name, skill=skill, last=last)
                key = (ledger.url, str(row.name), skill, last, knowledge.digest)
                found.append(_keep(key, knowledge, ledger.read_now("read lessons", wanted)))
    except LedgerLost:
        return []  # the runs read it, and say what is wrong
    finally:
        ledger.close()
    return found


def known_with(knowledge: Knowledge, lessons: Sequence[Lesson]) -> Known:
    """What a case is read by where these lessons count."""
    examples, unrelated = list(knowledge.examples), list(knowledge.unrelated)
    for one in lessons:
        if one.label == UNKNOWN:
            unrelated.append(one.text)
        else:
            examples.append(Example(one.text, one.label, f"case/{one.case}"))
    return tuple(examples), tuple(unrelated)


def _keep(key: tuple[str, str, str, int, str], knowledge: Knowledge, lessons: Sequence[Lesson]) -> Known:
    _known[key] = known_with(knowledge, lessons)
    while len(_known) > KEPT:
        _known.popitem(last=False)
    return _known[key]
