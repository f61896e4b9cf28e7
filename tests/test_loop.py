"""A tick of the real agent on a real inbox: nothing answered twice, nothing lost, nothing done for nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import func, select

from flows.loop import agent_loop
from skills import answer_ticket
from tasks.errors import BadInput
from tasks.ledger.agents import switch_effects
from tasks.ledger.database import Ledger
from tasks.ledger.tables import attempts, cases, effects, outcomes, steps
from tasks.records import Agent

CLEAR = b"Message-ID: <1@x.example>\nFrom: Ann <ann@example.com>\nSubject: order\n\nWhere is my order? No tracking yet."
ODD = b"Message-ID: <2@x.example>\nFrom: bob@example.com\nSubject: hi\n\nPlease review my novel about sailing."
ROBOT = b"Message-ID: <3@x.example>\nAuto-Submitted: auto-replied\nFrom: bot@example.com\n\nI am away."
NOBODY = b"Message-ID: <4@x.example>\n\nWhere is my order? No tracking yet."


@pytest.fixture
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger: Ledger, prefect_server: str):  # type: ignore[no-untyped-def]
    for part in ("new", "cur", "tmp"):
        (tmp_path / "inbox" / part).mkdir(parents=True)
    for number, raw in enumerate((CLEAR, ODD, ROBOT, NOBODY)):
        (tmp_path / "inbox/new" / f"m{number}").write_bytes(raw)
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path))
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield tmp_path


def agent(**changes: object) -> Agent:
    effects = {"reply": "maildir:sent", "hand_over": "maildir:handover"}
    settings = {"name": "desk", "source": "maildir:inbox", "skills": ["answer_ticket"], "effects": effects}
    return Agent.model_validate(settings | changes)


def tick(dry_run: bool = False, **changes: object) -> str:
    state = asyncio.run(agent_loop(agent(**changes), dry_run=dry_run, return_state=True))
    return state.name or ""


def mails(folder: Path) -> int:
    return len(list((folder / "new").glob("*")))


def concluded(ledger: Ledger) -> dict[str, int]:
    found = select(outcomes.c.kind, func.count()).group_by(outcomes.c.kind)
    return {row[0]: row[1] for row in ledger.read_now("look", lambda c: c.execute(found).all())}


def test_a_second_tick_answers_nobody_twice_and_ends_idle(inbox: Path, ledger: Ledger) -> None:
    assert tick() == "Completed"
    assert tick() == "Idle"
    assert (mails(inbox / "sent"), mails(inbox / "handover")) == (1, 2)
    assert concluded(ledger) == {"acted": 1, "handed_over": 2, "abstained": 1}
    assert mails(inbox / "inbox") == 4, "the inbox was changed"


def test_a_rehearsal_sends_nothing(inbox: Path, ledger: Ledger) -> None:
    assert tick(dry_run=True) == "Completed"
    assert not (inbox / "sent/new").exists() or mails(inbox / "sent") == 0
    kinds = ledger.read_now("look", lambda c: set(c.execute(select(effects.c.state)).scalars()))
    assert kinds == {"rehearsed"}


def test_a_stopped_agent_sends_nothing_and_loses_nothing(inbox: Path, ledger: Ledger) -> None:
    tick(dry_run=True)  # so that the agent is known
    ledger.write_now("stop", lambda c: switch_effects(c, "desk", False, "test"))
    (inbox / "inbox/new/m9").write_bytes(CLEAR.replace(b"<1@", b"<9@"))
    assert tick() == "Completed"
    assert not (inbox / "sent/new").exists() or mails(inbox / "sent") == 0
    assert (
        ledger.read_now("look", lambda c: c.execute(select(cases.c.state).where(cases.c.id == 5)).scalar()) == "parked"
    )
    before = ledger.read_now("look", lambda c: c.execute(select(func.count()).select_from(steps)).scalar())
    ledger.write_now("go", lambda c: switch_effects(c, "desk", True, "test"))
    tick()
    assert mails(inbox / "sent") == 1
    assert ledger.read_now("look", lambda c: c.execute(select(func.count()).select_from(steps)).scalar()) == before


def test_an_effect_that_is_not_allowed_is_refused_and_the_others_go_on(inbox: Path, ledger: Ledger) -> None:
    tick(effects={"hand_over": "maildir:handover"})
    assert mails(inbox / "handover") == 2
    why = ledger.read_now("look", lambda c: c.execute(select(cases.c.reason).where(cases.c.id == 1)).scalar())
    assert why and "may not 'reply'" in why


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"skills": ["fly"]}, "No skill is called 'fly'"),
        ({"source": "pigeon:loft"}, "No source is called 'pigeon'"),
        ({"source": "maildir:nowhere"}, "mkdir -p"),
        ({"effects": {"reply": "pigeon:loft"}}, "No channel is called 'pigeon'"),
        ({"name": ""}, "has no name"),
    ],
)
@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_wrong_setting_is_named_before_any_case_is_touched(
    inbox: Path, ledger: Ledger, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        asyncio.run(agent_loop(agent(**changes), dry_run=False))
    assert ledger.read_now("look", lambda c: c.execute(select(func.count()).select_from(cases)).scalar()) == 0


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_two_ticks_at_once_do_not_overlap(inbox: Path, ledger: Ledger, prefect_server: str) -> None:
    code = (
        "import asyncio; from flows.loop import agent_loop; from tests.test_loop import agent;"
        "print(asyncio.run(agent_loop(agent(), dry_run=False, return_state=True)).name)"
    )
    env = {**os.environ, "PREFECT_API_URL": prefect_server}  # a setting of this process reaches no child
    both = [subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE) for _ in "12"]
    names = [run.communicate(timeout=120)[0].decode().split()[-1] for run in both]
    assert [run.returncode for run in both] == [0, 0]
    assert "Completed" in names and set(names) <= {"Completed", "Skipped", "Idle"}
    assert mails(inbox / "sent") == 1


def test_a_broken_knowledge_base_blames_no_case_and_the_next_tick_goes_on(
    inbox: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "knowledge.json"
    broken.write_text('{"company": "Fennmoor", "entries": [')
    answer_ticket._knowledge.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(answer_ticket, "KNOWLEDGE", broken)
        with pytest.raises(BadInput, match="is broken: Expecting"):
            asyncio.run(agent_loop(agent(), dry_run=False))
    begun = ledger.read_now("look", lambda c: c.execute(select(func.count()).select_from(attempts)).scalar())
    assert begun == 0
    assert tick() == "Completed"
    assert (mails(inbox / "sent"), mails(inbox / "handover")) == (1, 2)
