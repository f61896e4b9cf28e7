"""What the README tells a new user to write works when it is followed to the letter."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import PROJECT

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
    """The first block of a language under a heading."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    under = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    found = re.search(rf"```{language}\n(.*?)```", under, re.S)
    assert found, f"no {language} block under {section!r}"
    return found.group(1)


def test_a_skill_and_an_agent_written_from_the_readme_alone_work(tmp_path: Path, prefect_server: str) -> None:
    clone = tmp_path / "clone"
    for room in ROOMS:
        shutil.copytree(PROJECT / room, clone / room, ignore=shutil.ignore_patterns("__pycache__"))
    skill, agent = block("python", "Write a skill"), block("yaml", "Add an agent")
    assert len([line for line in skill.splitlines() if line.strip()]) < 40
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
