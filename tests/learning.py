"""A desk whose customers use words that its knowledge does not have, and people who say what they mean."""

from __future__ import annotations

import json
import random
import time

from sqlalchemy import Connection, func, insert, select

from skills import answer_ticket
from tasks.knowledge import Knowledge
from tasks.ledger.database import Ledger
from tasks.ledger.inserts import insert_or_nothing
from tasks.ledger.reviewed import WEEK, begins, week_of
from tasks.ledger.tables import agents, cases, outcomes
from tasks.ledger.verdicts import say
from tasks.records import Agent, Outcome

SKILL = "answer_ticket"
# Words that its knowledge does not have: what they are about can only be learnt from people.
SLANG = {
    "device_wifi": "zorp flimflam blarney quux frobnitz wobbit snarkle plonkish drimble gazork".split(),
    "invoice_copy": "grommet snorf wibble krundle ploverish tazzle murgle brindlewax yonkered fiddlepip".split(),
}
KNOWN = {"device_wifi": "can't connect my garden to wifi", "invoice_copy": "I need an invoice"}


def known(skill: str) -> Knowledge | None:
    """Five entries of the skill's knowledge, which are learnt in a moment."""
    few = (*SLANG, "product_advice", "pump_noise", "warranty_claim")
    whole = answer_ticket.knowledge()
    mine = tuple(one for one in whole.entries if one.intent in few)
    return Knowledge(company=whole.company, entries=mine, unrelated=whole.unrelated) if skill == SKILL else None


def people_told(ledger: Ledger, count: int, *, slang: bool = True, skill: str = SKILL) -> None:
    """Enter so many more cases of last week, read wrongly if in slang, and people who say what they are about."""

    def enter(c: Connection) -> None:
        agent = Agent(name="desk", source="maildir:/inbox", skills=[skill], threshold=0.5)
        row = dict(name="desk", settings=agent.model_dump_json(), dry_run=False)
        c.execute(insert_or_nothing(c, agents).values(row))
        first = 1 + int(c.execute(select(func.max(cases.c.id))).scalar() or 0)
        at = begins(week_of(time.time())) - WEEK / 2
        for number in range(first, first + count):
            dice = random.Random(number)
            label = dice.choice(sorted(SLANG))
            text = " ".join(dice.sample(SLANG[label], 6)) if slang else KNOWN[label]
            body = json.dumps({"subject": f"Question {number}", "text": text, "sender": "", "key": str(number)})
            row = dict(agent="desk", source="maildir:/inbox", key=str(number), thread=f"t{number}", body=body)
            c.execute(insert(cases).values(**row, recorded=at, state="settled", skill=skill))
            said = Outcome(kind="handed_over", answer="product_advice" if slang else label, confidence=0.2)
            row = dict(case=number, fence=1, agent="desk", skill=skill, version="1", kind=said.kind, answer=said.answer)
            row |= dict(confidence=0.2, rehearsed=False, body=said.model_dump_json(), flow_run="", at=at)
            c.execute(insert(outcomes).values(row))
            say(c, number, not slang, "Ann", label)

    ledger.write_now("enter what people told", enter)
