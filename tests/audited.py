"""A ledger with weeks of outcomes whose truth is known, and people who say it of what they are asked about."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from itertools import islice

from sqlalchemy import Connection, insert, select

from tasks.ledger.database import Ledger
from tasks.ledger.inserts import insert_or_nothing
from tasks.ledger.reviewed import WEEK, begins, week_of
from tasks.ledger.tables import agents, audits, cases, outcomes
from tasks.ledger.verdicts import say
from tasks.records import Agent, Evidence, Outcome

INTENTS = ("refunds", "late_parcel", "invoice", "unknown")
AT_ONCE = 5_000


Row = tuple[float, str, float, str, float]
"""When, version, confidence, answer, and a number below 1 that decides whether it was right."""


def history(
    ledger: Ledger,
    weeks: int,
    per_week: int,
    *,
    agent: str = "desk",
    seed: int = 1,
    versions: int = 2,
    wrong: float = 1.0,
) -> dict[int, bool]:
    """Enter so many full weeks of outcomes, up to this week's Monday. Whether acting on each was right, by case.

    A case of confidence p is right with probability 1 - wrong * (1 - p), and acted on from 0.5 on.
    """
    dice = random.Random(seed)
    now = week_of(time.time())
    truth: dict[int, bool] = {}

    def enter(c: Connection) -> None:
        known = Agent(name=agent, source="maildir:/inbox", skills=["answer"], threshold=0.5)
        row = dict(name=agent, settings=known.model_dump_json(), dry_run=False)
        c.execute(insert_or_nothing(c, agents).values(row))
        rows = _rows(dice, now, weeks, per_week, versions)
        while chunk := list(islice(rows, AT_ONCE)):
            number = len(truth)
            case_rows, outcome_rows = [], []
            for at, version, sure, answer, chance in chunk:
                number += 1
                truth[number] = chance >= wrong * (1 - sure)
                words = {"subject": f"question {number}", "text": f"words {number} about {answer}"}
                body = json.dumps({"key": str(number), "sender": "", "thread": str(number), **words})
                case_rows.append(
                    dict(agent=agent, source="maildir:/inbox", key=f"{seed}-{number}", thread=str(number), body=body)
                    | dict(recorded=at, state="settled", skill="answer")
                )
                kind = "acted" if sure >= 0.5 else "handed_over"
                leaning = (Evidence(source=f"knowledge/{answer}#1", text="words", weight=sure),)
                said = Outcome(kind=kind, answer=answer, confidence=sure, evidence=leaning)
                outcome_rows.append(
                    dict(case=number, fence=1, agent=agent, skill="answer", version=version, kind=kind, answer=answer)
                    | dict(confidence=sure, rehearsed=False, body=said.model_dump_json(), flow_run="", at=at)
                )
            c.execute(insert(cases), case_rows)
            c.execute(insert(outcomes), outcome_rows)

    ledger.write_now("enter a history", enter)
    return truth


def _rows(dice: random.Random, now: int, weeks: int, per_week: int, versions: int) -> Iterator[Row]:
    for week in range(now - weeks, now):
        version = str(1 + (week - now + weeks) * versions // weeks)
        for at in sorted(dice.random() for _ in range(per_week)):
            sure = round(dice.betavariate(4, 1.5), 4)
            yield begins(week) + at * WEEK, version, sure, dice.choice(INTENTS), dice.random()


def people_say(ledger: Ledger, truth: dict[int, bool], who: str = "Ann", wrongly: float = 0.0) -> int:
    """Answer every audit that was asked for. Returns how many there are."""
    dice = random.Random(who)

    def answer(c: Connection) -> int:
        asked = c.execute(select(outcomes.c.case).join(audits, audits.c.outcome == outcomes.c.id)).scalars().all()
        for case in asked:
            say(c, case, truth[case] ^ (dice.random() < wrongly), who)
        return len(asked)

    return ledger.write_now("answer audits", answer)
