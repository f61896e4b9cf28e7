"""A desk whose answers people found right or wrong, as tests enter that, review it and look which rules hold."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import Connection, func, insert, select

from flows import review as reviewing
from flows.review import review
from tasks.ledger.database import Ledger
from tasks.ledger.inserts import insert_or_nothing
from tasks.ledger.proposals import Proposal, newest_proposals
from tasks.ledger.reviewed import WEEK, begins, name_of, week_of
from tasks.ledger.rules import held_answers
from tasks.ledger.tables import agents, audits, cases, journal, outcomes
from tasks.ledger.verdicts import say
from tasks.records import Agent, Outcome

SKILL = "answer_ticket"
TARGET = 0.08
NOW = week_of(time.time())


@pytest.fixture
def desk(ledger: Ledger, prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    monkeypatch.setattr(reviewing, "knowledge_of", lambda _: None)
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield ledger


def people_found(
    ledger: Ledger,
    answer: str,
    wrong: int,
    right: int,
    *,
    kind: str = "acted",
    weeks_ago: int = 1,
    asked: bool = True,
    skill: str = SKILL,
) -> list[int]:
    """Enter so many more cases that were read so, drawn by a plan unless nobody was asked, and what people said."""

    def enter(c: Connection) -> list[int]:
        agent = Agent(name="desk", source="maildir:/inbox", skills=[skill], threshold=0.5)
        row = dict(name="desk", settings=agent.model_dump_json(), dry_run=False)
        c.execute(insert_or_nothing(c, agents).values(row))
        first = 1 + int(c.execute(select(func.max(cases.c.id))).scalar() or 0)
        at, numbers = begins(NOW - weeks_ago) + WEEK / 2, range(first, first + wrong + right)
        for number in numbers:
            body = json.dumps({"subject": "", "text": "", "sender": "", "key": str(number)})
            row = dict(agent="desk", source="maildir:/inbox", key=str(number), thread=f"t{number}", body=body)
            c.execute(insert(cases).values(**row, recorded=at, state="settled", skill=skill))
            said = Outcome(kind=kind, answer=answer, confidence=0.9)  # type: ignore[arg-type]
            row = dict(case=number, fence=1, agent="desk", skill=skill, version="1", kind=kind, answer=answer)
            row |= dict(confidence=0.9, rehearsed=False, body=said.model_dump_json(), flow_run="", at=at)
            outcome = c.execute(insert(outcomes).values(row).returning(outcomes.c.id)).scalar_one()
            if asked:
                row = dict(outcome=outcome, agent="desk", period=name_of(NOW - weeks_ago), stratum="s", chance=0.5)
                c.execute(insert(audits).values(**row, asked=at + WEEK / 4))
            say(c, number, number - first >= wrong, "Ann")
        return list(numbers)

    return ledger.write_now("enter what people found", enter)


def reviewed(change: bool = True) -> None:
    asyncio.run(review(agent="desk", change=change, target=TARGET))


def all_proposals(ledger: Ledger) -> list[Proposal]:
    return ledger.read_now("look", lambda c: newest_proposals(c, "desk", 20))


def held(ledger: Ledger) -> tuple[str, ...]:
    return ledger.read_now("look", lambda c: held_answers(c, "desk", SKILL))


def said_in_journal(ledger: Ledger) -> list[str]:
    found = select(journal.c.what).where(journal.c.agent == "desk").order_by(journal.c.id)
    return list(ledger.read_now("look", lambda c: c.execute(found).scalars().all()))
