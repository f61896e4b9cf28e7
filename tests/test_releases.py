"""A version that is tried out reaches as many cases as it may, and the review ends the trial by what people found."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import func, select, update

import skills
from flows.loop import agent_loop
from flows.review import review
from flows.stage import stage
from skills import _catalogue
from tasks.errors import BadInput
from tasks.ledger.again import redo_rehearsed
from tasks.ledger.cases import NotBegun, begin, hand_back
from tasks.ledger.database import Ledger
from tasks.ledger.holders import register
from tasks.ledger.releases import place, releases_of, set_stage, show_to_shadows, to_begin, version_for
from tasks.ledger.reviewed import WEEK, begins, week_of
from tasks.ledger.tables import SHADOW, agents, audits, cases, effects, journal, outcomes, releases
from tasks.ledger.verdicts import say
from tasks.process import this_process
from tasks.records import Agent
from tests import forked
from tests.conftest import arrival, fill

SKILL = '''"""Says yes; yes is right."""
import hashlib
import os
import signal
from functools import partial

from prefect import flow

from skills import Case, CaseId, Outcome, each, perform, reply_to


async def work(wrong: float, case: Case) -> Outcome:
    dice = int(hashlib.sha256(case.subject.encode()).hexdigest()[:6], 16) / 16**6
    answer = "no" if dice < wrong else "yes"
    await perform(reply_to(case, answer))
    return Outcome(kind="acted", answer=answer, confidence=0.9)


@flow(name="sorting", version="1")
async def sorting(cases: list[CaseId]) -> None:
    await each(cases, partial(work, 0.25))


@flow(name="sorting", version="2")
async def worse(cases: list[CaseId]) -> None:
    await each(cases, partial(work, 0.65))


@flow(name="sorting", version="3")
async def better(cases: list[CaseId]) -> None:
    await each(cases, partial(work, 0.0))


@flow(name="sorting", version="9")
async def deadly(cases: list[CaseId]) -> None:
    await each(cases, lambda case: os.kill(os.getpid(), signal.SIGKILL))
'''
TICK = """
import asyncio, os
from pathlib import Path
import skills
from skills import _catalogue
_catalogue.SKILLS = Path(os.environ["HOLDFAST_HOME"]) / "skills"
skills.__path__ = [str(_catalogue.SKILLS)]
from flows.loop import agent_loop
from tasks.records import Agent
reply = {"reply": "maildir:sent"}
asyncio.run(agent_loop(Agent(name="desk", source="maildir:inbox", skills=["sorting"], effects=reply), dry_run=False))
"""


@pytest.fixture
def desk(ledger: Ledger, prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    folder = tmp_path / "skills"
    folder.mkdir()
    (folder / "sorting.py").write_text(SKILL)
    monkeypatch.setattr(_catalogue, "SKILLS", folder)
    monkeypatch.setattr(skills, "__path__", [str(folder)])
    monkeypatch.delitem(sys.modules, "skills.sorting", raising=False)
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path))
    for part in ("new", "cur", "tmp"):
        (tmp_path / "inbox" / part).mkdir(parents=True)
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield ledger
    sys.modules.pop("skills.sorting", None)


def mails(folder: Path, first: int, count: int) -> None:
    for number in range(first, first + count):
        head = (
            f"Message-ID: <{number}@x.example>\nFrom: c{number}@example.com\nSubject: question {number}\n\nYes or no?"
        )
        (folder / "inbox/new" / f"m{number}").write_text(head)


def tick() -> str:
    reply = {"reply": "maildir:sent"}
    agent = Agent(name="desk", source="maildir:inbox", skills=["sorting"], effects=reply, batch=400)
    return asyncio.run(agent_loop(agent, dry_run=False, return_state=True)).name or ""


def staged(version: str, to: str, share: float = 0.5) -> None:
    asyncio.run(stage(agent="desk", skill="sorting", version=version, stage=to, share=share, who="Ann"))


def worked(ledger: Ledger, since: int = 0) -> Counter[str]:
    found = select(outcomes.c.version).where(outcomes.c.id > since)
    return Counter(ledger.read_now("look", lambda c: c.execute(found).scalars().all()))


def a_week_passes(ledger: Ledger) -> None:
    """Everything so far was done in the week that ended."""
    monday = begins(week_of(ledger.read_now("look", lambda c: c.execute(select(func.max(outcomes.c.at))).scalar_one())))
    for table, to in ((releases, monday - WEEK + 60), (outcomes, monday - WEEK + 3600)):
        ledger.write_now("shift", lambda c, t=table, to=to: c.execute(update(t).values(at=to)))  # type: ignore[misc]


def people_answer(ledger: Ledger) -> None:
    found = select(outcomes.c.case, outcomes.c.answer).join(audits, audits.c.outcome == outcomes.c.id)
    for case, answer in ledger.read_now("look", lambda c: c.execute(found).all()):
        ledger.write_now("say", lambda c, n=case, a=answer: say(c, n, a == "yes", "Ann", label="yes"))  # type: ignore[misc]


def stages(ledger: Ledger) -> dict[str, str]:
    return {one.version: one.stage for one in ledger.read_now("look", lambda c: releases_of(c, "desk"))}


@pytest.mark.parametrize(("version", "ends", "then"), [("2", "retired", "1"), ("3", "live", "3")])
def test_a_worse_canary_is_not_left_to_err_nor_a_better_one_to_wait_for_a_deploy(
    desk: Ledger, tmp_path: Path, version: str, ends: str, then: str
) -> None:
    assert tick() == "Idle"
    staged(version, "canary")
    mails(tmp_path, 1, 300)
    assert tick() == "Completed"
    assert 110 < worked(desk)[version] < 190 and worked(desk).total() == 300
    a_week_passes(desk)
    asyncio.run(review(agent="desk", audits=160, target=0.3))
    people_answer(desk)
    asyncio.run(review(agent="desk", audits=160, target=0.3))
    assert stages(desk) == {version: "canary"}, "it was told not to change anything"
    for _ in "12":
        asyncio.run(review(agent="desk", audits=160, target=0.3, change=True))
        assert stages(desk) == {version: ends}
    mails(tmp_path, 1000, 10)
    assert tick() == "Completed"
    assert worked(desk, since=300) == {then: 10}


def test_a_case_in_flight_is_not_given_to_another_version(ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, tmp_path, [arrival(n) for n in range(1, 41)])
    ledger.write_now("register", lambda c: register(c, "h", this_process(), ""))
    ledger.write_now("try", lambda c: set_stage(c, "desk", "practice", "2", "canary", 0.5, "Ann", ""))
    before = {one.case: one.version for one in ledger.read_now("look", lambda c: to_begin(c, "desk", 40))}
    mine = [case for case, version in before.items() if version == "2"]
    assert 8 < len(mine) < 32 and set(before.values()) == {"", "2"}
    work = ledger.write_now("begin", lambda c: begin(c, mine[0], "h", "practice", "2", ""))
    assert not isinstance(work, NotBegun)
    ledger.write_now("hand back", lambda c: hand_back(c, work, "drained", False))
    ledger.write_now("end it", lambda c: set_stage(c, "desk", "practice", "2", "retired", 0, "Ann", ""))
    after = {one.case: one.version for one in ledger.read_now("look", lambda c: to_begin(c, "desk", 40))}
    assert after == dict.fromkeys(before, "") | {mine[0]: "2"}


def test_a_shadow_lets_nothing_leave_and_enters_no_rate(desk: Ledger, tmp_path: Path) -> None:
    assert tick() == "Idle"
    staged("3", "shadow", 1.0)
    mails(tmp_path, 1, 140)
    assert tick() == "Completed"
    assert worked(desk) == {"1": 140, "3": 140}
    assert len(list((tmp_path / "sent/new").iterdir())) == 140
    states = select(effects.c.state, func.count()).group_by(effects.c.state)
    kept = desk.read_now("look", lambda c: {row[0]: row[1] for row in c.execute(states)})
    assert kept == {"confirmed": 140, "rehearsed": 140}
    assert desk.write_now("again", lambda c: show_to_shadows(c, "desk", 100)) == 0
    assert desk.write_now("redo", lambda c: redo_rehearsed(c, 0, "Ann")) == [], "a copy would have been made live"
    assert tick() == "Idle"
    a_week_passes(desk)
    asyncio.run(review(agent="desk", audits=60, target=0.3))
    copies = select(cases.c.id).where(cases.c.source.startswith(SHADOW))
    asked = select(func.count()).select_from(audits.join(outcomes)).where(outcomes.c.case.in_(copies))
    assert desk.read_now("look", lambda c: c.execute(asked).scalar()) == 0
    people_answer(desk)
    asyncio.run(review(agent="desk", audits=60, target=0.3, change=True))
    assert stages(desk) == {"3": "canary"}, "people's word on the real cases says that it is better"


def test_a_shadow_whose_copies_kill_is_retired_and_its_agent_goes_on(
    desk: Ledger, tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    assert tick() == "Idle"
    staged("9", "shadow", 1.0)
    mails(tmp_path, 1, 3)
    for _ in range(3):
        assert forked.start(code=TICK).wait(120) == -signal.SIGKILL
    assert forked.start(code=TICK).wait(120) == 0, "the agent is stopped by what only rehearses"
    row = desk.read_now("look", lambda c: c.execute(select(agents)).one())
    assert (row.paused, row.fruitless) == ("", 0)
    (gone,) = desk.read_now("look", lambda c: releases_of(c, "desk"))
    assert (gone.version, gone.stage, gone.who) == ("9", "retired", "recovery") and "killed its process" in gone.why
    copies = select(cases.c.state, cases.c.reason).where(cases.c.source.startswith(SHADOW)).order_by(cases.c.id)
    first, *others = desk.read_now("look", lambda c: c.execute(copies).all())
    assert first.state == "quarantined" and "3 attempts died" in first.reason
    assert [one.state for one in others] == ["quarantined"] * 2 and "another copy" in others[0].reason
    said = select(journal.c.what).where(journal.c.who == "recovery")
    noted = " ".join(desk.read_now("look", lambda c: c.execute(said).scalars().all()))
    assert "sorting 9 is retired" in noted and "quarantined 2 other copies" in noted and "paused" not in noted
    mails(tmp_path, 10, 2)
    assert tick() == "Completed" and len(list((tmp_path / "sent/new").iterdir())) == 5


def test_a_version_that_the_code_has_no_more_leaves_no_case_behind(desk: Ledger, tmp_path: Path) -> None:
    assert tick() == "Idle"
    with pytest.raises(BadInput, match=r"no version .4. in its code\. Versions there: 1, 2, 3"):
        staged("4", "canary")
    desk.write_now("try", lambda c: set_stage(c, "desk", "sorting", "4", "live", 0, "Ann", ""))
    mails(tmp_path, 1, 3)
    assert tick() == "Completed" and worked(desk) == {"1": 3}


def test_canaries_never_have_more_than_all_cases_and_one_version_is_live(ledger: Ledger) -> None:
    def said(version: str, to: Any, share: float = 0.0) -> bool:
        return ledger.write_now("say", lambda c: set_stage(c, "desk", "sorting", version, to, share, "Ann", ""))

    assert [said("2", "canary", 0.6) for _ in "12"] == [True, False]
    with pytest.raises(BadInput, match="60% of its cases already"):
        said("3", "canary", 0.5)
    assert said("3", "canary", 0.2)
    found = ledger.read_now("look", lambda c: releases_of(c, "desk"))
    given = Counter(version_for("sorting", case, found) for case in range(4_000))
    assert abs(given["2"] - 2_400) < 150 and abs(given["3"] - 800) < 120
    assert said("2", "live") and said("3", "live")
    assert stages(ledger) == {"2": "retired", "3": "live"}
    found = ledger.read_now("look", lambda c: releases_of(c, "desk"))
    assert {version_for("sorting", case, found) for case in range(1, 200)} == {"3"}
    assert place("sorting", 7) == place("sorting", 7) != place("other", 7)


def test_instructions_in_two_files_are_two_versions_and_never_one_by_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "thank-all"
    folder.mkdir()
    text = '---\nname: thank-all\ndescription: Thanks.\nallowed-tools: reply\nmetadata:\n  version: "{}"\n---\nThank.\n'
    (folder / "SKILL.md").write_text(text.format(1))
    (folder / "SKILL.2.md").write_text(text.format(2))
    monkeypatch.setattr(_catalogue, "SKILLS", tmp_path)
    assert list(_catalogue.versions("thank-all")) == ["1", "2"]
    assert _catalogue.skill_flow("thank-all").version == "1"
    assert _catalogue.skill_flow("thank-all", "2").version == "2"
    (folder / "SKILL.2.md").write_text(text.format(1))
    with pytest.raises(BadInput, match="have the same version"):
        _catalogue.versions("thank-all")
