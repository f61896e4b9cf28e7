"""A skill that is written as instructions does what they allow and no more, and survives kills as any other."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import select

from flows.loop import agent_loop
from skills import catalogue, describe, skill_flow
from skills._follow import flow_of
from tasks.errors import BadInput
from tasks.instructions import read_instructions
from tasks.ledger.database import Ledger
from tasks.ledger.tables import attempts, cases, outcomes
from tasks.records import Agent
from tasks.tools import named
from tests import forked
from tests.claude.brain import Call
from tests.claude.log import paid_twice
from tests.claude.running import Claude, claude_server_in
from tests.conftest import PROJECT, arrival, fill, wait_for

WRITTEN = sorted(path.parent for path in (PROJECT / "skills").glob("*/SKILL.md"))
SEVERAL = ["answer-several-questions", "brief-a-person"]
HEAD = 'name: {name}\ndescription: Does it.\nmetadata:\n  version: "1"\n'


@pytest.fixture
def desk(ledger: Ledger, prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Claude]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test-1234")
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    brain = "tests.test_instructions:brain"
    with claude_server_in(tmp_path, brain=brain) as server, temporary_settings({PREFECT_API_URL: prefect_server}):
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        yield server


def brain(body: dict[str, Any]) -> Any:
    """Sort by the subject's first word; in a conversation do what the text says, a tool for each word."""
    first = body["messages"][0]["content"]
    text = first if isinstance(first, str) else first[0]["text"]
    case = json.loads(text.partition("<case>")[2].partition("</case>")[0])
    if "tools" not in body:
        return {"skill": case["subject"].split()[0], "why": "its subject says so"}
    plan, turn = case["text"].split(), sum(one["role"] == "assistant" for one in body["messages"])
    if turn >= len(plan) or body["tool_choice"]["type"] == "tool":
        return Call("conclude", {"answer": "done", "confidence": 0.9, "note": ""})
    return {
        "earlier": Call("earlier_mail", {}),
        "reply": Call("reply", {"text": "Hello,\n\nthat is how it is done, in two steps.\n\nKind regards"}),
        "person": Call("hand_over", {"summary": "They want to know.", "urgency": "high"}),
        "words": "I only think.",
    }[plan[turn]]


def mails(box: Path, folder: str) -> list[str]:
    return [path.read_text() for path in sorted((box / folder / "new").glob("*"))]


def enter(ledger: Ledger, box: Path, *subjects_and_plans: tuple[str, str]) -> None:
    given = [
        arrival(number, body=plan).model_copy(update={"subject": subject, "sender": "ann@example.com"})
        for number, (subject, plan) in enumerate(subjects_and_plans, 1)
    ]
    effects = {"reply": f"maildir:{box / 'sent'}", "hand_over": f"maildir:{box / 'people'}"}
    fill(ledger, box, given, effects=effects, skills=SEVERAL)


def concluded(ledger: Ledger) -> dict[int, str]:
    rows = ledger.read_now("look", lambda c: c.execute(select(outcomes.c.case, outcomes.c.kind)).all())
    return {row.case: row.kind for row in rows}


@pytest.mark.parametrize("folder", WRITTEN, ids=lambda one: one.name)
def test_a_shipped_skill_breaks_no_rule_of_the_format_and_names_only_tools_that_exist(folder: Path) -> None:
    done = subprocess.run([Path(sys.executable).with_name("agentskills"), "validate", folder], capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    how = read_instructions(folder)
    assert [one.__name__ for one in named(how.tools)] == list(how.tools) and how.tools


def test_both_kinds_of_skills_are_listed_with_what_they_are_for() -> None:
    assert {"answer_ticket", "decide", *SEVERAL} <= set(catalogue())
    assert "several" not in describe("answer_ticket") and "two or more things" in describe(SEVERAL[0])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no head at all", "must begin"),
        (f"---\n{HEAD}---\n", "no instructions"),
        ("---\nname: broken\ndescription: It.\n---\nDo it.", "version"),
        (f"---\n{HEAD}colour: red\n---\nDo it.", "colour"),
        (f"---\n{HEAD}  turns: many\n---\nDo it.", "turns"),
        (f"---\n{HEAD.replace('{name}', 'other')}---\nDo it.", "name of its folder"),
        (f"---\n{HEAD.replace('{name}', 'Bad_Name')}---\nDo it.", "name"),
        (f"---\n{HEAD}  knowledge: nowhere.json\n---\nDo it.", "nowhere.json"),
        (f"---\n{HEAD}allowed-tools: reply delete_everything\n---\nDo it.", "delete_everything"),
    ],
)
def test_broken_instructions_are_refused_with_the_file_and_the_reason(tmp_path: Path, text: str, told: str) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "SKILL.md").write_text(text.replace("{name}", "broken"))
    with pytest.raises(BadInput, match=told):
        flow_of(folder)


def test_what_was_done_decides_what_a_case_came_to_and_not_what_the_model_says(
    desk: Claude, ledger: Ledger, tmp_path: Path
) -> None:
    enter(ledger, tmp_path, ("a", "earlier reply"), ("b", "person"), ("c", "words"), ("d", "reply reply person"))
    asyncio.run(skill_flow(SEVERAL[0])(cases=[1, 2, 3, 4]))
    assert concluded(ledger) == {1: "acted", 2: "handed_over", 3: "abstained", 4: "handed_over"}
    assert len(mails(tmp_path, "sent")) == 2 and len(mails(tmp_path, "people")) == 2
    told = [one for one in desk.entries("message") if one.usage["cache_read_input_tokens"]]
    assert told, "no turn read the instructions from the provider's cache"


def test_a_skill_can_not_use_a_tool_that_its_instructions_do_not_allow(
    desk: Claude, ledger: Ledger, tmp_path: Path
) -> None:
    enter(ledger, tmp_path, ("a", "reply person"))
    asyncio.run(skill_flow("brief-a-person")(cases=[1]))
    assert mails(tmp_path, "sent") == [] and concluded(ledger) == {1: "handed_over"}


def test_a_conversation_without_an_end_goes_to_a_person(desk: Claude, ledger: Ledger, tmp_path: Path) -> None:
    enter(ledger, tmp_path, ("a", "words"))
    desk.fail("refusal", times=None)
    asyncio.run(skill_flow(SEVERAL[0])(cases=[1]))
    (mail,) = mails(tmp_path, "people")
    assert "refused" in mail and concluded(ledger) == {1: "handed_over"}


TICK = """
import asyncio, sys
from flows.loop import agent_loop
from tasks.records import Agent
asyncio.run(agent_loop(Agent.model_validate_json(sys.argv[1]), dry_run=False))
"""


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_each_case_goes_to_the_skill_that_was_chosen_once_also_when_the_tick_is_killed_in_between(
    desk: Claude, ledger: Ledger, tmp_path: Path
) -> None:
    box = tmp_path / "inbox"
    for part in ("new", "cur", "tmp"):
        (box / part).mkdir(parents=True)
    for number, (subject, plan) in enumerate(
        [(SEVERAL[0], "reply"), (SEVERAL[1], "person"), ("ignore", ""), ("person", ""), ("delete-all", "reply")], 1
    ):
        mail = f"Message-ID: <{number}@x.example>\nFrom: c{number}@x.example\nSubject: {subject} please\n\n{plan}\n"
        (box / "new" / str(number)).write_text(mail)
    effects = {"reply": f"maildir:{tmp_path / 'sent'}", "hand_over": f"maildir:{tmp_path / 'people'}"}
    agent = {"name": "desk", "source": f"maildir:{box}", "skills": SEVERAL, "effects": effects}
    desk.fail("held", skip=5)
    first = forked.start(json.dumps(agent), code=TICK)
    wait_for(lambda: desk.state()["in_flight"], 90, "a chosen skill at work")
    first.kill()
    first.wait()
    desk.control(release=True)
    forked.run(json.dumps(agent), code=TICK).check_returncode()
    assert concluded(ledger) == {1: "acted", 2: "handed_over", 3: "abstained", 4: "handed_over", 5: "handed_over"}
    assert len(mails(tmp_path, "sent")) == 1 and len(mails(tmp_path, "people")) == 3
    assert sum("which was not offered" in one for one in mails(tmp_path, "people")) == 1
    decided = select(attempts.c.case).where(attempts.c.how == "sent on")
    assert sorted(ledger.read_now("look", lambda c: c.execute(decided).scalars().all())) == [1, 2]
    assert paid_twice(desk.entries(), answered=True) == []


def test_an_agent_with_several_skills_and_no_model_says_what_it_needs(
    ledger: Ledger, prefect_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    agent = Agent(name="desk", source=f"maildir:{tmp_path}", skills=SEVERAL)
    with temporary_settings({PREFECT_API_URL: prefect_server}), pytest.raises(BadInput, match="ANTHROPIC_API_KEY"):
        asyncio.run(agent_loop(agent))
    assert ledger.read_now("look", lambda c: c.execute(select(cases)).all()) == []
