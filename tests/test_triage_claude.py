"""Claude looks into an alert with tools that only read; what it says binds nobody where it saw nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.errors import BadInput
from tasks.ledger.database import Ledger
from tasks.tools.incidents import read_log
from tests import forked
from tests.alerting import Alerting, alerting_in
from tests.claude.log import paid_twice
from tests.claude.running import Claude, claude_server_in
from tests.conftest import wait_for
from tests.incidents import RULES, RUN, Desk, cited, environment, episode
from tests.sink import sink_in

SQLITE = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alerting]:
    with alerting_in(tmp_path_factory.mktemp("rig"), RULES) as found:
        found.push('queue_depth{service="mail"} 250')
        found.firing("QueueBacklog")
        yield found


@pytest.fixture
def claude(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Claude]:
    with claude_server_in(tmp_path, brain="tests.investigating:brain") as server:
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test-1234")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        yield server


@pytest.fixture
def desk(
    claude: Claude,
    ledger: Ledger,
    rig: Alerting,
    tmp_path: Path,
    prefect_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Desk]:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/app.log").write_text("all is well\nerror: worker 3 hangs\n" * 3)
    env = environment(ledger.url, prefect_server, tmp_path, HOLDFAST_LOGS=str(tmp_path / "logs"))
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    silence = f"alertmanager://127.0.0.1:{rig.alertmanager.port}"
    with sink_in(tmp_path / "sink") as sink, temporary_settings({PREFECT_API_URL: prefect_server}):
        out = {"page": sink.url("page"), "note": sink.url("note"), "silence": silence}
        yield Desk(ledger, sink, tmp_path, prefect_server, out, rig.source)


def asked(claude: Claude) -> int:
    return len(claude.entries("message"))


@SQLITE
def test_a_conclusion_cites_what_the_tools_told(desk: Desk, claude: Claude) -> None:
    plan = "range now alerts bomb passwords log page"
    desk.enter(episode("QueueBacklog", "warning", annotations={"summary": plan}, service="mail"))
    (outcome,) = desk.work()
    assert (outcome.kind, outcome.answer, outcome.confidence) == ("acted", "page", 0.9)
    assert "error: worker 3 hangs" in cited(outcome)["what was seen"]
    (page,) = desk.pages()
    assert "worker 3 hangs" in page["body"] and asked(claude) == 7


@SQLITE
@pytest.mark.parametrize(("plan", "severity"), [("lie", "warning"), ("range unsure", "warning"), ("quiet", "critical")])
def test_a_person_is_called_where_the_model_saw_nothing_or_may_not_decide(desk: Desk, plan: str, severity: str) -> None:
    desk.enter(episode("QueueBacklog", severity, annotations={"summary": plan}, service="mail"))
    (outcome,) = desk.work()
    assert outcome.answer == "page" and len(desk.pages()) == 1 and not desk.notes()
    assert (outcome.kind == "handed_over") == (severity != "critical") or outcome.confidence == 0.0


@SQLITE
@pytest.mark.parametrize("fault", ["401", "400", "529", "refusal", "hang"])
def test_an_alert_does_not_wait_for_a_model_that_does_not_answer(
    desk: Desk, claude: Claude, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.conversation.turn.retry_delay_seconds", [0.0])
    monkeypatch.setattr("tasks.claude.CALL_SECONDS", 0.5)
    claude.fail(fault, times=None)
    desk.enter(episode("QueueBacklog", "warning", annotations={"summary": "page"}, service="mail"))
    (outcome,) = desk.work()
    assert (outcome.kind, outcome.answer) == ("acted", "page")
    assert "Claude did not conclude" in outcome.note and "prometheus/range" in cited(outcome)


def test_a_killed_investigation_pays_no_turn_twice_and_calls_a_person_once(desk: Desk, claude: Claude) -> None:
    plan = "range now alerts log page"
    desk.enter(episode("QueueBacklog", "warning", annotations={"summary": plan}, service="mail"))
    claude.fail("held", skip=3)
    run = forked.start("1", code=RUN, env=dict(os.environ))
    wait_for(lambda: len(claude.state()["in_flight"]) == 1, 90, "the fourth turn")
    run.send_signal(signal.SIGKILL)
    run.wait()
    claude.control(release=True)
    (outcome,) = desk.work()
    assert outcome.answer == "page" and len(desk.pages()) == 1
    assert paid_twice(claude.entries(), answered=True) == []
    assert json.loads(desk.pages()[0]["body"])["kind"] == "page"


def test_a_log_is_read_only_in_its_folder_and_only_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="no logs"):
        asyncio.run(read_log())
    monkeypatch.setenv("HOLDFAST_LOGS", str(tmp_path))
    (tmp_path / "app.log").write_text("".join(f"line {number} {'x' * 3000}\n" for number in range(3000)))
    (tmp_path / "link.log").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe.log")
    assert asyncio.run(read_log()) == ["app.log"]
    found = asyncio.run(read_log("app.log", lines=200))
    assert len(found) == 200 and all(len(one) <= 500 for one in found) and found[-1].startswith("line 2999")
    for name in ("link.log", "pipe.log", "/etc/passwd", "../passwd", "nobody.log"):
        with pytest.raises(BadInput):
            asyncio.run(read_log(name))
