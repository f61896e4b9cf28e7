"""What people told teaches only what an exam or a person lets in, once, and can be taken back."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import Connection, func, select

from flows import review as reviewing
from flows.approve import approve
from flows.review import review
from skills import knowledge_of
from tasks.errors import BadInput
from tasks.home import taught
from tasks.ledger.database import Ledger
from tasks.ledger.lessons import lessons_up_to, newest
from tasks.ledger.proposals import Proposal, decide, newest_proposals, take_back, told_by_people
from tasks.ledger.reviewed import Window
from tasks.ledger.tables import effects, journal, lessons, proposals, reviews
from tasks.ledger.verdicts import say
from tasks.records import Replay
from tasks.replay import held_out, parted, replay
from tests import forked
from tests.learning import SKILL, known, people_told

REVIEW = "\nasyncio.run(flow.review(agent='desk', change=True))"
BEGINS = """
import asyncio, os, signal
from flows import review as flow
from tasks import proposals
from tests.learning import known
flow.knowledge_of = known
def dies(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
"""
DOORWAYS = {
    "while it replays": "proposals.replay = dies",
    "before it proposes": "proposals.enter = dies",
    "before it decides": "proposals.decide = dies",
    "before it reports": "flow.show_review = dies",
}


@pytest.fixture
def desk(ledger: Ledger, prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    monkeypatch.setattr(reviewing, "knowledge_of", known)
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield ledger


def reviewed(change: bool = True) -> None:
    asyncio.run(review(agent="desk", change=change))


async def examined(ledger: Ledger) -> Replay:
    """The exam that a review sets, by hand."""
    window = Window("desk", 0.0, time.time(), time.time())
    exam, shown = parted(await ledger.read("look", lambda c: told_by_people(c, window)), set())
    knowledge = known(SKILL)
    assert knowledge is not None
    return await replay(ledger, "desk", SKILL, knowledge, [(one.case, one.label) for one in shown], exam)


def all_proposals(ledger: Ledger) -> list[Proposal]:
    return ledger.read_now("look", lambda c: newest_proposals(c, "desk", 10))


def learnt(ledger: Ledger) -> list[tuple[int, str]]:
    def read(c: Connection) -> list[tuple[int, str]]:
        return [(one.case, one.label) for one in lessons_up_to(c, "desk", SKILL, newest(c, "desk", SKILL))]

    return ledger.read_now("look", read)


def said_in_journal(ledger: Ledger) -> list[str]:
    found = select(journal.c.what).where(journal.c.agent == "desk").order_by(journal.c.id)
    return list(ledger.read_now("look", lambda c: c.execute(found).scalars().all()))


def test_what_helps_beyond_chance_is_learnt_and_the_exam_is_not(desk: Ledger) -> None:
    people_told(desk, 60)
    reviewed(change=False)
    (waits,) = all_proposals(desk)
    assert waits.state == "proposed" and learnt(desk) == [], "it learnt what it was only to speak of"
    found = waits.replay
    assert found is not None and found.gained >= 15 and found.lost == 0 and found.low > 0.5 and found.p < 0.001
    held = {number for number in range(1, 61) if held_out(f"maildir:/inbox t{number}")}
    assert found.held_out == len(held), "other cases were examined than those held out"
    assert {case for case, _ in waits.examples} == set(range(1, 61)) - held == set(waits.evidence)
    reviewed()
    (active,) = all_proposals(desk)
    assert active._replace(state="proposed", who="", why="") == waits, "it was examined a second time"
    assert (active.state, active.who) == ("active", "the review") and "p = 0.000" in active.why
    assert sorted(learnt(desk)) == active.examples and taught().exists()
    assert any(f"learnt {len(active.examples)} case(s), proposal 1" in one for one in said_in_journal(desk))
    assert desk.read_now("look", lambda c: c.execute(select(func.count()).select_from(effects)).scalar()) == 0


def test_what_shows_no_help_waits_grows_by_half_and_is_let_in_by_a_person(desk: Ledger, tmp_path: Path) -> None:
    people_told(desk, 24, slang=False)
    reviewed()
    (first,) = all_proposals(desk)
    assert first.state == "proposed" and first.replay is not None and first.replay.p > 0.05
    page = (tmp_path / "reviews/review-desk.html").read_text()
    assert "What it could learn" in page and f"{first.replay.p:.3f}" in page and "deployments approve" in page
    people_told(desk, 4, slang=False)
    reviewed()
    assert all_proposals(desk) == [first], "it is examined again and again until chance lets it in"
    people_told(desk, 20, slang=False)
    reviewed()
    (second,) = all_proposals(desk)
    assert second.id != first.id and set(first.examples) < set(second.examples)
    with pytest.raises(BadInput, match="replaced by a newer one"):
        desk.write_now("approve", lambda c: decide(c, first.id, True, "Ann", ""))
    for _ in "12":
        asyncio.run(approve(proposal=second.id, decision="approve", who="Ann", why="they are typical"))
    assert sorted(learnt(desk)) == second.examples
    assert [one for one in said_in_journal(desk) if "they are typical" in one] == [
        f"{SKILL} learnt {len(second.examples)} case(s), proposal {second.id}: they are typical"
    ]


def test_what_was_declined_or_taken_back_is_not_proposed_again_but_may_be_approved(desk: Ledger) -> None:
    people_told(desk, 60)
    reviewed(change=False)
    asyncio.run(approve(proposal=1, decision="decline", who="Ann", why="a joke of one customer"))
    reviewed()
    assert [one.state for one in all_proposals(desk)] == ["declined"] and learnt(desk) == []
    people_told(desk, 8)
    reviewed()
    declined, more = reversed(all_proposals(desk))
    assert not set(declined.examples) & set(more.examples)
    assert desk.write_now("approve", lambda c: decide(c, 1, True, "Ben", "it was none"))
    assert desk.write_now("revert", lambda c: take_back(c, "desk", SKILL, "Ann")) == (1, len(declined.examples))
    reviewed()
    assert not set(declined.examples) & set(learnt(desk)), "the next review undid what a person took back"
    assert desk.write_now("approve", lambda c: decide(c, 1, True, "Ann", "after all"))
    assert set(declined.examples) <= set(learnt(desk))
    with pytest.raises(BadInput, match=f"revert desk {SKILL} --lessons"):
        desk.write_now("decline", lambda c: decide(c, 1, False, "Ann", ""))
    with pytest.raises(BadInput, match="no proposal 99"):
        desk.write_now("decline", lambda c: decide(c, 99, False, "Ann", ""))


@pytest.mark.parametrize("doorway", DOORWAYS)
def test_a_review_killed_at_any_doorway_proposes_examines_and_learns_the_same_once(desk: Ledger, doorway: str) -> None:
    people_told(desk, 40)
    wanted = asyncio.run(examined(desk))
    killed = forked.start(code=BEGINS + DOORWAYS[doorway] + REVIEW)
    assert killed.wait(150) == -9
    assert forked.start(code=BEGINS + REVIEW).wait(150) == 0
    (one,) = all_proposals(desk)
    assert one.state == "active" and sorted(learnt(desk)) == one.examples
    assert one.replay == wanted and wanted.p < 0.05
    counts = [select(func.count()).select_from(table) for table in (lessons, proposals, reviews)]
    assert [desk.read_now("look", lambda c, q=q: c.execute(q).scalar()) for q in counts] == [len(one.examples), 1, 1]
    assert len([said for said in said_in_journal(desk) if "learnt" in said]) == 1


def test_two_reviews_at_once_learn_it_once(desk: Ledger) -> None:
    people_told(desk, 40)
    both = [forked.start(code=BEGINS + REVIEW) for _ in "12"]
    assert [run.wait(150) for run in both] == [0, 0]
    (one,) = all_proposals(desk)
    assert one.state == "active" and sorted(learnt(desk)) == one.examples
    counted = select(func.count()).select_from(lessons)
    assert desk.read_now("look", lambda c: c.execute(counted).scalar()) == len(one.examples)


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_skill_that_the_embedded_model_does_not_read_for_is_named_and_left_alone(
    desk: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert knowledge_of(SKILL) is not None
    monkeypatch.setattr(reviewing, "knowledge_of", knowledge_of)
    for name in ("nobody", "../tasks", "answer-several-questions", "decide"):
        assert knowledge_of(name) is None
    people_told(desk, 10, skill="brief-a-person")
    reviewed()
    page = tmp_path / "reviews/review-desk.html"
    assert "it has no <code>knowledge()</code>" in page.read_text() and all_proposals(desk) == []
    people_told(desk, 10)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test-1234")
    reviewed()
    assert "Claude reads for answer_ticket" in page.read_text() and all_proposals(desk) == []


def test_people_who_change_their_minds_and_change_them_back_are_heard(desk: Ledger) -> None:
    people_told(desk, 30, slang=False)
    reviewed()
    (one,) = all_proposals(desk)
    case, label = one.examples[0]
    said: list[tuple[int, str]] = []
    for now in (label, "pump_noise", label, "pump_noise"):
        desk.write_now("say", lambda c, now=now: say(c, case, False, "Ann", now))
        reviewed()
        open_ = next((one for one in all_proposals(desk) if one.state == "proposed"), None)
        if open_ is not None:
            desk.write_now("approve", lambda c, number=open_.id: decide(c, number, True, "Ann", ""))
        said += [pair for pair in learnt(desk) if pair[0] == case]
    assert said == [(case, label), (case, "pump_noise"), (case, label), (case, "pump_noise")]


def commanded(*words: str, status: int = 0) -> str:
    done = forked.run("deployments", *words, env=os.environ | {"PREFECT_LOGGING_LEVEL": "ERROR"})
    assert done.returncode == status and "Traceback" not in done.stdout, done.stdout
    return done.stdout


def test_a_proposal_is_listed_approved_declined_and_taken_back_by_commands(desk: Ledger) -> None:
    people_told(desk, 30, slang=False)
    reviewed()
    (one,) = all_proposals(desk)
    assert "proposed" in (listed := commanded("proposals", "desk")) and "held-out cases" in listed
    assert "is approved" in commanded("approve", "1", "--why", "typical")
    assert "nothing is changed" in commanded("approve", "1")
    assert "active by" in commanded("proposals")
    assert "counts already" in commanded("decline", "1", status=1)
    said = commanded("revert", "desk", SKILL, "--lessons")
    assert f"{len(one.examples)} lesson(s) of proposal 1" in said and learnt(desk) == []
    assert "left to take back" in commanded("revert", "desk", SKILL, "--lessons", status=1)
    assert "is declined" in commanded("decline", "1")
    assert "no proposal 7" in commanded("approve", "7", status=1)
