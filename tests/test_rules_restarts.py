"""A rule is laid down once, at whatever doorway a review is killed and however many review at once."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from sqlalchemy import func, select

from tasks.ledger.database import Ledger
from tasks.ledger.tables import rules
from tests import forked
from tests.ruled import SKILL, all_proposals, desk, held, people_found, said_in_journal

__all__ = ["desk"]
BEGINS = """
import asyncio, os, signal
from flows import review as flow
from tasks import rules
flow.knowledge_of = lambda _: None
def dies(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
"""
REVIEW = "\nasyncio.run(flow.review(agent='desk', change=True, target=0.08))"
DOORWAYS = {
    "before it proposes": "rules.propose_rule = dies",
    "before it decides": "rules.decide = dies",
    "before it reports": "flow.show_review = dies",
}


@pytest.mark.parametrize("doorway", DOORWAYS)
def test_a_review_killed_at_any_doorway_lays_a_rule_down_once_and_says_so(
    desk: Ledger, tmp_path: Path, doorway: str
) -> None:
    people_found(desk, "refunds", wrong=30, right=30)
    killed = forked.start(code=BEGINS + DOORWAYS[doorway] + REVIEW)
    assert killed.wait(150) == -signal.SIGKILL
    assert forked.start(code=BEGINS + REVIEW).wait(150) == 0
    (one,) = all_proposals(desk)
    assert one.state == "active" and held(desk) == ("refunds",)
    counted = select(func.count()).select_from(rules)
    assert desk.read_now("look", lambda c: c.execute(counted).scalar()) == 1
    assert len([said for said in said_in_journal(desk) if "a rule" in said]) == 1
    said = f"{SKILL} is to hand over what it reads as refunds, proposal 1"
    assert said in (tmp_path / "reviews/review-desk.html").read_text(), "it counts, and the report does not say so"


def test_two_reviews_at_once_lay_it_down_once(desk: Ledger) -> None:
    people_found(desk, "refunds", wrong=30, right=30)
    both = [forked.start(code=BEGINS + REVIEW) for _ in "12"]
    assert [run.wait(150) for run in both] == [0, 0]
    counted = select(func.count()).select_from(rules)
    assert len(all_proposals(desk)) == 1 and desk.read_now("look", lambda c: c.execute(counted).scalar()) == 1
