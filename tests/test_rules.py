"""An answer is left to people if it errs beyond chance, by cases that nobody chose it by, and given back likewise."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from scipy.stats import binomtest
from sqlalchemy import Connection, insert, select

from flows.approve import approve
from skills import can_keep_rules
from tasks.errors import BadInput
from tasks.ledger.cases import NotBegun, Work, begin
from tasks.ledger.database import Ledger
from tasks.ledger.holders import register
from tasks.ledger.proposals import decide, take_rule_back
from tasks.ledger.reviewed import WEEK, name_of
from tasks.ledger.tables import audits, cases, outcomes, proposals, rules
from tasks.ledger.thresholds import threshold_of
from tasks.process import this_process
from tasks.records import Policy
from tasks.replay import held_out
from tests import forked
from tests.ruled import NOW, SKILL, TARGET, all_proposals, desk, held, people_found, reviewed, said_in_journal

__all__ = ["desk"]


def weeks_pass(ledger: Ledger, weeks: int = 4) -> None:
    """Since everything that was decided."""

    def shift(c: Connection) -> None:
        for table in (rules, proposals):
            for row in c.execute(select(table)).all():
                values = {
                    name: row._mapping[name] - weeks * WEEK for name in ("at", "decided") if row._mapping.get(name)
                }
                c.execute(table.update().where(table.c.id == row.id).values(values))

    ledger.write_now("shift", shift)


def test_an_answer_that_errs_is_left_to_people_by_cases_that_nobody_chose_it_by(desk: Ledger, tmp_path: Path) -> None:
    ours = people_found(desk, "refunds", wrong=30, right=30)
    people_found(desk, "invoice", wrong=4, right=76)
    desk.write_now("register", lambda c: register(c, "h", this_process(), ""))

    def begun(case: int) -> Work:
        row = dict(agent="desk", source="s", key=f"new{case}", thread=f"new{case}", recorded=0.0, skill=SKILL)
        body = json.dumps(
            {"key": "k", "thread": "t", "sender": "", "subject": "", "text": "", "arrived": "2026-01-01T00:00Z"}
        )
        desk.write_now("enter", lambda c: c.execute(insert(cases).values(**row, id=case, body=body)))
        found = desk.write_now("begin", lambda c: begin(c, case, "h", SKILL, "1", ""))
        assert not isinstance(found, NotBegun), found
        return found

    reviewed(change=False)
    (waits,) = all_proposals(desk)
    assert waits.state == "proposed" and held(desk) == (), "it laid down what it was only to speak of"
    before = begun(1001)
    exam = waits.exam
    held_back = {number for number in ours if held_out(f"maildir:/inbox t{number}")}
    wrong = set(ours[:30])
    assert exam is not None and exam.held_out == len(held_back) and exam.wrong == len(held_back & wrong)
    assert set(waits.evidence) == wrong - held_back, "an exam's case chose its answer"
    wanted = binomtest(exam.wrong, exam.held_out, TARGET, alternative="greater").pvalue
    assert exam.p == pytest.approx(wanted, abs=1e-12) and exam.share == pytest.approx(exam.wrong / exam.held_out)
    assert (exam.moved, exam.of) == (pytest.approx(60 / 140), 140) and exam.moved_low < 60 / 140 < exam.moved_high
    for _ in "12":
        reviewed()
    (active,) = all_proposals(desk)
    assert active._replace(state="proposed", who="", why="") == waits and active.who == "the review"
    assert held(desk) == ("refunds",)
    assert [one for one in said_in_journal(desk) if "rule" in one] == [
        f"a rule for {SKILL}: hand over what it reads as refunds, proposal 1: {active.why}"
    ]
    page = (tmp_path / "reviews/review-desk.html").read_text()
    assert "What it could leave to people" in page and "hand over what it reads as refunds" in page
    assert begun(1002).policy.held == ("refunds",)
    assert before.policy.held == (), "a case in flight would take another turn after a restart"


def test_a_rule_is_asked_of_the_policy_and_a_case_pinned_before_there_were_rules_loads() -> None:
    old = Policy.model_validate_json('{"threshold": 0.5, "versions": {}, "lessons": 3}')
    ruled = old.model_copy(update={"held": ("refunds",)})
    assert old.acts_on("refunds", 0.5) and not old.acts_on("refunds", 0.49)
    assert ruled.acts_on("invoice", 0.5) and not ruled.acts_on("refunds", 1.0) and not ruled.acts_on("refunds")


def test_who_looks_where_it_hurts_lays_down_no_rule(desk: Ledger) -> None:
    people_found(desk, "refunds", wrong=30, right=0, asked=False)
    people_found(desk, "refunds", wrong=3, right=57)
    reviewed()
    assert all_proposals(desk) == [] and held(desk) == ()


def test_what_is_not_clear_waits_grows_by_half_and_is_laid_down_by_a_person(desk: Ledger) -> None:
    shown = [number for number in range(1, 41) if not held_out(f"maildir:/inbox t{number}")]
    for number in range(1, 41):
        people_found(desk, "refunds", wrong=int(number in shown[:9]), right=int(number not in shown[:9]))
    reviewed()
    (first,) = all_proposals(desk)
    assert first.exam is not None and (first.state, first.exam.wrong) == ("proposed", 0) and first.exam.p == 1.0
    people_found(desk, "refunds", wrong=3, right=0)
    reviewed()
    assert all_proposals(desk) == [first], "it is examined again and again until chance lets it in"
    asyncio.run(approve(proposal=first.id, decision="approve", who="Ann", why="a law changed"))
    assert held(desk) == ("refunds",) and "a law changed" in said_in_journal(desk)[-1]
    with pytest.raises(BadInput, match=f"revert desk {SKILL} --rules"):
        desk.write_now("decline", lambda c: decide(c, first.id, False, "Ann", ""))


@pytest.mark.parametrize("no", ["decline", "take back"])
def test_a_persons_no_is_not_asked_again_for_the_cases_that_he_knew(desk: Ledger, no: str) -> None:
    people_found(desk, "refunds", wrong=30, right=30)
    people_found(desk, "invoice", wrong=0, right=200)  # which says where the threshold would be without refunds
    reviewed(change=no == "take back")
    if no == "decline":
        asyncio.run(approve(proposal=1, decision="decline", who="Ann", why="wrong labels"))
    else:
        assert desk.write_now("revert", lambda c: take_rule_back(c, "desk", SKILL, "Ann")) is not None
        assert desk.write_now("revert", lambda c: take_rule_back(c, "desk", SKILL, "Ann")) is None
    reviewed()
    assert held(desk) == () and len(all_proposals(desk)) == 1
    weeks_pass(desk)
    desk.write_now("age", lambda c: c.execute(outcomes.update().values(at=outcomes.c.at - 4 * WEEK)))
    desk.write_now("age", lambda c: c.execute(audits.update().values(period=name_of(NOW - 5))))
    reviewed()
    assert held(desk) == (), "weeks alone made it forget"
    people_found(desk, "refunds", wrong=30, right=30)
    reviewed()
    assert held(desk) == ("refunds",) and len(all_proposals(desk)) == 2, "what went wrong since is no news"


def test_an_answer_is_given_back_when_people_would_have_let_it_act_and_may_be_held_again(desk: Ledger) -> None:
    people_found(desk, "refunds", wrong=30, right=30, weeks_ago=6)
    people_found(desk, "invoice", wrong=0, right=200, weeks_ago=2)
    reviewed()
    weeks_pass(desk, 5)
    people_found(desk, "refunds", wrong=0, right=30, kind="handed_over", weeks_ago=3)
    reviewed()
    assert held(desk) == ("refunds",) and len(all_proposals(desk)) == 1, "30 right ones show nothing"
    people_found(desk, "refunds", wrong=0, right=40, kind="handed_over", weeks_ago=3)
    reviewed()
    lifted = all_proposals(desk)[0]
    assert held(desk) == () and str(lifted) == "no longer hand over what it reads as refunds"
    assert lifted.exam is not None and (lifted.exam.held_out, lifted.exam.wrong) == (70, 0)
    assert lifted.exam.p == pytest.approx(binomtest(0, 70, TARGET, alternative="less").pvalue)
    assert desk.write_now("revert", lambda c: take_rule_back(c, "desk", SKILL, "Ann")) == lifted._replace(
        state="reverted", who="Ann", why=""
    )
    assert held(desk) == ("refunds",), "the rule before the lifted one does not count again"
    assert desk.write_now("approve", lambda c: decide(c, lifted.id, True, "Ann", ""))
    weeks_pass(desk, 2)
    reviewed()
    assert held(desk) == (), "what it was first laid down for counted a second time"
    people_found(desk, "refunds", wrong=30, right=30)
    reviewed()
    assert held(desk) == ("refunds",)


def test_errors_that_a_rule_puts_an_end_to_raise_no_threshold(desk: Ledger) -> None:
    people_found(desk, "invoice", wrong=2, right=300)
    people_found(desk, "refunds", wrong=60, right=0)
    reviewed(change=False)
    asyncio.run(approve(proposal=1, decision="approve", who="Ann", why=""))
    reviewed()
    found = desk.read_now("look", lambda c: threshold_of(c, "desk", SKILL))
    assert found is None or found <= 0.9, "all are handed over now, for the errors of one answer"


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_no_rule_is_laid_down_that_its_skill_could_not_keep(desk: Ledger, tmp_path: Path) -> None:
    assert can_keep_rules(SKILL)
    assert not any(can_keep_rules(name) for name in ("brief-a-person", "nobody", "../tasks"))
    people_found(desk, "thanked", wrong=30, right=30, skill="brief-a-person")
    people_found(desk, "dear [friend](http://x), thanks!", wrong=30, right=30)
    reviewed()
    assert all_proposals(desk) == [], "it would look kept, and nobody would ask it"
    assert "acts before it concludes" in (tmp_path / "reviews/review-desk.html").read_text()


def commanded(*words: str, status: int = 0) -> str:
    done = forked.run("deployments", *words, env=os.environ | {"PREFECT_LOGGING_LEVEL": "ERROR"})
    assert done.returncode == status and "Traceback" not in done.stdout, done.stdout
    return done.stdout


def test_a_rule_is_listed_approved_and_taken_back_by_commands(desk: Ledger) -> None:
    people_found(desk, "refunds", wrong=30, right=30)
    reviewed(change=False)
    assert "hand over what it reads as refunds; of" in commanded("proposals", "desk")
    assert "is approved" in commanded("approve", "1", "--why", "typical") and held(desk) == ("refunds",)
    assert "Proposal 1 (hand over what it reads as refunds)" in commanded("revert", "desk", SKILL, "--rules")
    assert held(desk) == () and "left to take back" in commanded("revert", "desk", SKILL, "--rules", status=1)
