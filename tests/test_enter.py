"""`up` enters what prefect.yaml says when it changed, and neither overwrites nor waits for what did not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import enter
from deployments.pool import make_pool
from tests.conftest import PROJECT
from tests.servers import ask_prefect, free_port, prefect_server_in


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLDFAST_HOME", str(home))
        # As if its own libraries were at odds, which has happened: heartbeats that nobody misses until work lies there.
        patch.setenv("PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED", "false")
        (home / "prefect").mkdir()
        with prefect_server_in(home / "prefect") as url, temporary_settings({PREFECT_API_URL: url}):
            make_pool("agents", None)
            yield url


def support(api: str) -> dict[str, object]:
    found: dict[str, object] = ask_prefect(api, "GET", "/deployments/name/agent-loop/support")
    return found


def test_a_change_made_in_the_ui_survives_a_restart_and_a_change_of_the_files_does_not_wait(
    api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {**os.environ, "PREFECT_API_URL": api}
    enter.enter_what_changed(env)
    found = support(api)
    parameters = {**found["parameters"], "dry_run": False}  # type: ignore[dict-item]
    ask_prefect(api, "PATCH", f"/deployments/{found['id']}", json={"parameters": parameters})
    enter.enter_what_changed(env)
    assert support(api)["parameters"] == parameters, "a restart overwrote what was set in the UI"

    digest = enter._digest()
    monkeypatch.setattr(enter, "_digest", lambda: f"other than {digest}")
    enter.enter_what_changed(env)
    assert support(api)["parameters"] == found["parameters"], "a changed prefect.yaml was not entered"
    ask_prefect(api, "DELETE", f"/deployments/{found['id']}")
    enter.enter_what_changed(env)
    assert support(api)["id"] != found["id"], "an agent that was deleted did not come back"


def test_a_deploy_from_another_terminal_reaches_the_server_of_up_and_never_one_of_its_own(api: str) -> None:
    bare = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    enter.enter_what_changed({**bare, "PREFECT_API_URL": api})
    before = support(api)
    ask_prefect(api, "DELETE", f"/deployments/{before['id']}")
    deploy = [sys.executable, "-m", "deployments", "deploy"]
    subprocess.run(deploy, env=bare, cwd=PROJECT, capture_output=True, timeout=110, check=True)
    assert support(api)["parameters"] == before["parameters"]

    nowhere = {**bare, "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}
    done = subprocess.run(deploy, env=nowhere, cwd=PROJECT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 1 and "does not answer" in done.stdout and "Run `up`" in done.stdout


def test_an_empty_address_of_a_server_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", "")
    assert enter.server() == enter.LOCAL == os.environ["PREFECT_API_URL"]


def test_a_server_that_plans_no_heartbeat_is_named_by_doctor(api: str) -> None:
    env = {**os.environ, "PREFECT_API_URL": api}
    enter.enter_what_changed(env)
    doctor = [sys.executable, "-m", "deployments", "doctor"]
    done = subprocess.run(doctor, env=env, cwd=PROJECT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 1 and "no run of support is planned although its schedule is on" in done.stdout
