"""The demonstration with a key: Claude reads the tickets, and a kill makes no finished call be paid again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from email import message_from_bytes
from email.policy import default
from pathlib import Path

import pytest

from deployments.tickets import tickets
from tasks.prices import NANO
from tests.claude.cost import cost
from tests.claude.log import paid_twice
from tests.claude.running import claude_server_in
from tests.conftest import PROJECT, wait_for

SEED = 1  # kills early
KEY = "sk-demo-of-nobodys-business-6021"
PLACES = 8  # cases that the agent works at once


@pytest.mark.timeout(400)
def test_a_kill_amid_calls_of_claude_pays_no_finished_one_twice_and_shows_the_key_to_nobody(tmp_path: Path) -> None:
    # All but one of the agent's places wait for the model when the kill comes, and the last is between two calls:
    # an answer that arrives in the very moment of the kill is finished for nobody.
    # Told apart by their subjects: the addresses are taken out of what a provider is shown.
    waiting = [str(message_from_bytes(raw, policy=default)["Subject"]) for raw in tickets(SEED)[: PLACES - 1]]
    held = [{"kind": "held", "match": f'"subject": {json.dumps(one, ensure_ascii=False)}'} for one in waiting]
    folder, figures, said = tmp_path / "home", tmp_path / "figures", tmp_path / "said"
    with claude_server_in(tmp_path, brain="tests.claude.support:answer") as server:
        server.control(faults=[*held, {"kind": "slow", "delay": 0.4, "times": None}])
        env = {one: value for one, value in os.environ.items() if not one.startswith(("PREFECT_", "HOLDFAST_"))}
        env |= {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": server.url, "PYTHONUNBUFFERED": "1"}
        words = ["demo", "--home", str(folder), "--seed", str(SEED), "--json", str(figures)]
        with said.open("wb") as output:
            command = [sys.executable, "-m", "deployments", *words]
            demo = subprocess.Popen(command, env=env, cwd=PROJECT, stdout=output, stderr=output)
        try:
            under_way = [0]

            def killed() -> bool:
                under_way.append(len(server.state()["in_flight"]))
                return "killed process" in said.read_text() or demo.poll() is not None

            wait_for(killed, 200, "the kill")
            # Of the last looks: a call may be given up in the moment between the kill and the word of it.
            assert max(under_way[-50:]) >= PLACES - 1, "the kill met nothing under way"
            dead = Path("/proc", said.read_text().partition("killed process ")[2].split()[0])
            # Before that its connections may be open still, and an answer would seem to have found somebody.
            wait_for(lambda: not dead.exists(), 30, "the end of what was killed")
            server.control(forget=True, release=True)
            assert demo.wait(200) == 0, said.read_text()
        finally:
            demo.terminate()
            demo.wait()
        entries = [one for one in server.entries("message") if one.billed]
    assert paid_twice(entries, answered=True) == []
    assert len(paid_twice(entries)) >= PLACES - 1, "what the kill cut off was not asked again"
    found, paid = json.loads(figures.read_text()), [one for one in entries if one.answered]
    assert found["answered"] >= 25 and found["answered"] + found["handed_over"] == 47
    assert (found["answered_twice"], found["lost"], found["steps_run_again"], found["runs_left"]) == (0, 0, 0, 0)
    assert (found["model"], found["calls"]) == ("claude-haiku-5-5", len(paid))
    assert found["usd"] == pytest.approx(sum(map(cost, paid)) / NANO, abs=1e-6) and found["usd_cut_off"] > 0
    assert "claude-haiku-5-5" in said.read_text()
    tell = [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert tell == [], "the key is written down"
