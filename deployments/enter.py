"""Enters prefect.yaml's deployments at the server, and knows whether they were entered as they stand now."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import httpx
import yaml

from tasks.errors import BadInput
from tasks.home import PROJECT, home

RECORD = "entered.json"
ROOMS = ("flows", "skills")  # where flows get their parameters from
LOCAL = "http://127.0.0.1:4200/api"


def server() -> str:
    """The API that commands talk to: PREFECT_API_URL, else where this folder's were entered last, as by `up`.

    It is put into the environment: without any, Prefect would start a server of its own.
    """
    api = os.environ.get("PREFECT_API_URL") or str(_record().get("at") or LOCAL)
    os.environ["PREFECT_API_URL"] = api
    return api


def ask_server() -> None:
    """BadInput if nobody answers there."""
    api = server()
    try:
        httpx.get(f"{api}/health", timeout=10)
    except httpx.HTTPError as why:
        remedy = "Run `up`, or set PREFECT_API_URL."
        raise BadInput(f"Prefect's server at {api} does not answer ({why}). {remedy}") from why


def enter_deployments(env: dict[str, str] | None = None) -> None:
    """Run `prefect deploy --all`; BadInput with what Prefect said if that fails."""
    env = env or {**os.environ, "PYTHONPATH": str(PROJECT)}
    words = ["--no-prompt", "deploy", "--all"]
    command = [sys.executable, "-m", "prefect", *words]
    now = _digest()
    done = subprocess.run(command, env=env, cwd=PROJECT, capture_output=True, text=True, timeout=180)
    if done.returncode != 0:
        raise BadInput(f"`prefect {' '.join(words)}` failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    (home() / RECORD).write_text(json.dumps({"digest": now, "at": env.get("PREFECT_API_URL", "")}))


def enter_what_changed(env: dict[str, str]) -> None:
    """Enter the deployments unless they stand at the server as they do in the files: that takes seconds after a crash.

    What was changed in the UI meanwhile then stays.
    """
    api = env["PREFECT_API_URL"]
    if not _digest() or _record() != {"digest": _digest(), "at": api} or not _all_there(api):
        enter_deployments(env)


def _record() -> dict[str, object]:
    """What was entered last, and where."""
    try:
        found = json.loads((home() / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest() -> str:
    """Of all that deployments are made of; '' if that can not be told, as a template may take in anything."""
    text = (PROJECT / "prefect.yaml").read_bytes()
    if b"{{" in text:
        return ""
    files = sorted(path for room in ROOMS for path in (PROJECT / room).rglob("*.py"))
    parts = [text, *(part for path in files for part in (str(path.relative_to(PROJECT)).encode(), path.read_bytes()))]
    return hashlib.sha256(b"".join(hashlib.sha256(one).digest() for one in parts)).hexdigest()


def _all_there(api: str) -> bool:
    names = {one["name"] for one in yaml.safe_load((PROJECT / "prefect.yaml").read_text()).get("deployments") or []}
    try:
        found = httpx.post(f"{api}/deployments/filter", json={"limit": 200}, timeout=10).raise_for_status().json()
    except httpx.HTTPError:
        return False
    return names <= {one["name"] for one in found}
