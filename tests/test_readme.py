"""What the README tells a new user to write works when it is followed to the letter."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tasks.ledger.database import Ledger
from tasks.ledger.tables import steps
from tests.claude.brain import Call
from tests.claude.running import claude_server_in
from tests.conftest import PROJECT, arrival, fill

PRAISE = """
import asyncio, sys
from skills import skill_flow
asyncio.run(skill_flow("thank-for-praise")(cases=[1, 2]))
"""
ROOMS = ("flows", "tasks", "skills", "deployments")
TICK = """
import asyncio, sys, yaml
from flows.loop import agent_loop
from tasks.records import Agent
blocks = {one["name"]: one for one in yaml.safe_load(open("prefect.yaml"))["deployments"]}
given = blocks["orders"]["parameters"]
agent = Agent.model_validate({"name": "orders", **given["agent"]})
state = asyncio.run(agent_loop(agent, dry_run=sys.argv[1] == "rehearse", return_state=True))
print("ended as", state.name)
"""


def block(language: str, section: str) -> str:
    """The first block of a language under a heading; none of them is longer than a screen."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    under = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    found = re.search(rf"```{language}\n(.*?)```", under, re.S)
    assert found, f"no {language} block under {section!r}"
    assert len([line for line in found.group(1).splitlines() if line.strip()]) < 40
    return found.group(1)


def clone_in(folder: Path) -> Path:
    """What a user has who cloned the project, to be written into."""
    for room in ROOMS:
        shutil.copytree(PROJECT / room, folder / "clone" / room, ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "clone"


def test_a_skill_and_an_agent_written_from_the_readme_alone_work(tmp_path: Path, prefect_server: str) -> None:
    clone = clone_in(tmp_path)
    skill, agent = block("python", "Write a skill"), block("yaml", "Add an agent")
    (clone / "skills/confirm_order.py").write_text(skill)
    (clone / "prefect.yaml").write_text((PROJECT / "prefect.yaml").read_text() + "\n" + agent)

    box = tmp_path / "home/orders/inbox/new"
    for part in ("new", "cur", "tmp"):
        (box.parent / part).mkdir(parents=True)
    (box / "1").write_text("Message-ID: <1@x.example>\nFrom: ann@x.example\nSubject: Late\n\nWhere is ORD-12345?")
    (box / "2").write_text("Message-ID: <2@x.example>\nFrom: bob@x.example\nSubject: Hi\n\nDo you sell boats?")
    env = os.environ | {
        "HOLDFAST_HOME": str(tmp_path / "home"),
        "HOLDFAST_LEDGER": f"sqlite:///{tmp_path}/ledger.db",
        "PREFECT_API_URL": prefect_server,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PYTHONPATH": str(clone),
    }

    def run(*command: str) -> str:
        done = subprocess.run([sys.executable, *command], cwd=clone, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("-m", "prefect", "work-pool", "create", "agents", "--type", "process", "--overwrite")
    assert "successfully" in run("-m", "prefect", "--no-prompt", "deploy", "--name", "orders")

    def sent(folder: str) -> int:
        return len(list((tmp_path / "home/orders" / folder / "new").glob("*")))

    assert "ended as Completed" in run("-c", TICK, "rehearse")
    assert (sent("sent"), sent("handover")) == (0, 0)
    run("-m", "deployments", "redo", "--since", "2026-01-01")
    assert "ended as Completed" in run("-c", TICK, "live")
    assert (sent("sent"), sent("handover")) == (1, 1)
    assert "ended as Idle" in run("-c", TICK, "live")


def brain(body: dict[str, Any]) -> Any:
    """Follow the README's skill as a model would: look, thank, conclude."""
    turn = sum(one["role"] == "assistant" for one in body["messages"])
    text = "Hello,\n\nthank you, that is good to hear.\n\nKind regards"
    end = {"answer": "praise", "confidence": 0.9, "note": json.dumps(body["messages"])[-400:][:300]}
    return [Call("count_earlier_mail", {}), Call("reply", {"text": text}), Call("conclude", end)][turn]


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_tool_and_a_skill_as_instructions_written_from_the_readme_alone_work(
    ledger: Ledger, tmp_path: Path, prefect_server: str
) -> None:
    clone, section = clone_in(tmp_path), "Write a skill as instructions"
    (clone / "skills/thank-for-praise").mkdir()
    (clone / "skills/thank-for-praise/SKILL.md").write_text(block("markdown", section))
    (clone / "tasks/tools/history.py").write_text(block("python", section))
    mails = [arrival(number).model_copy(update={"sender": "ann@x.example"}) for number in (1, 2)]
    fill(ledger, tmp_path, mails, skills=["thank-for-praise"])
    with claude_server_in(tmp_path, brain="tests.test_readme:brain") as claude:
        env = {"HOLDFAST_LEDGER": ledger.url, "PREFECT_API_URL": prefect_server, "PYTHONPATH": str(clone)}
        env |= {"ANTHROPIC_API_KEY": "sk-test-1234", "ANTHROPIC_BASE_URL": claude.url}
        command = [sys.executable, "-c", PRAISE]
        done = subprocess.run(command, cwd=clone, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "sent/new").glob("*"))) == 2
    counted = [json.loads(one)["text"] for one in values(ledger, "use") if '"text"' in one]
    assert {"0", "1"} <= set(counted), "the second mail has one before it"


def values(ledger: Ledger, step: str) -> list[str]:
    """What the finished steps of a name returned."""
    found = select(steps.c.value).where(steps.c.step.endswith(step)).order_by(steps.c.case, steps.c.at)
    kept = ledger.read_now("look", lambda c: c.execute(found).scalars().all())
    return [json.dumps(json.loads(json.loads(one)["result"])["data"]) for one in kept]
