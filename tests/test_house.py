"""The rules of the house, so that a change that breaks one fails here and not in production."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
from pathlib import Path

import pytest
import yaml
from prefect import Flow, Task

from tasks.records import FINGERPRINTED, NOT_FINGERPRINTED, Case
from tasks.store import OncePerCase

PROJECT = Path(__file__).resolve().parents[1]
ROOMS = ("flows", "skills", "tasks", "deployments")
MAY_IMPORT = {
    "flows": {"skills", "tasks"},
    "skills": {"skills", "tasks"},
    "tasks": {"tasks"},
    "deployments": {"tasks", "deployments"},
}
TOP = {"pyproject.toml", "README.md", "flows", "tasks", "skills", "deployments", "tests", "prefect.yaml"}
BESIDE = {"LICENSE", "CHANGELOG.md", "Makefile"}
SOURCES = sorted(path for room in ROOMS for path in (PROJECT / room).rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)} has a relative import"
            found.add(node.module or "")
    return found


def test_the_top_level_grows_no_new_folder() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    found = {line.partition("/")[0] for line in tracked.splitlines()}
    assert {one for one in found if not one.startswith(".")} <= TOP | BESIDE


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_room_imports_what_it_must_not(path: Path) -> None:
    room = path.relative_to(PROJECT).parts[0]
    others = {one.partition(".")[0] for one in imported(path)} & set(ROOMS)
    assert others <= MAY_IMPORT[room], f"{name(path)} imports {others - MAY_IMPORT[room]}"


@pytest.mark.parametrize("path", [one for one in SOURCES if one.parts[-2] == "flows"], ids=name)
def test_flows_do_not_import_each_other_or_hold_persisted_classes(path: Path) -> None:
    assert not any(one.startswith("flows") for one in imported(path))
    assert path.stem not in {"email", "queue", "logging", "types"}, "it would shadow a module for all later imports"


def test_records_import_nothing_of_ours() -> None:
    assert not {one for one in imported(PROJECT / "tasks/records.py") if one.partition(".")[0] in ROOMS}


def test_only_one_file_imports_anthropic() -> None:
    assert [name(path) for path in SOURCES if "anthropic" in imported(path)] == ["tasks/claude.py"]


def test_no_run_parses_python_beside_other_threads() -> None:
    """Two threads at it make either fail with a SystemError in Python 3.11 before 3.11.8 (gh-106905)."""
    assert not [name(path) for path in SOURCES if "ast" in imported(path)]


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_module_says_in_one_sentence_what_it_is_and_stays_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300
    assert ast.get_docstring(ast.parse(path.read_text())), f"{name(path)} has no docstring"


def skill_modules() -> list[str]:
    found = [
        one for one in (PROJECT / "skills").rglob("*.py") if one.name != "__init__.py" or one.parent.name != "skills"
    ]
    return sorted(".".join(one.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__") for one in found)


@pytest.mark.parametrize("module", skill_modules())
def test_a_skill_declares_its_version_and_has_only_async_steps_that_finish_once(module: str) -> None:
    for found in vars(importlib.import_module(module)).values():
        if isinstance(found, Flow):
            declared = inspect.signature(found.fn), found.version
            assert declared[1] and len(str(declared[1])) < 20, f"{found.name} has no declared version"
            assert inspect.iscoroutinefunction(found.fn)
        elif isinstance(found, Task):
            assert isinstance(found.cache_policy, OncePerCase), f"{found.name} would run again after a restart"
            assert found.isasync


def test_every_field_of_a_case_was_decided_to_be_in_the_step_key_or_not() -> None:
    assert set(Case.model_fields) == set(FINGERPRINTED) | set(NOT_FINGERPRINTED)
    assert not set(FINGERPRINTED) & set(NOT_FINGERPRINTED)
    assert all(NOT_FINGERPRINTED.values())


def test_every_block_of_prefect_yaml_loads_and_its_parameters_validate() -> None:
    for block in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]:
        module, _, attribute = block["entrypoint"].rpartition(".")
        flow = getattr(importlib.import_module(module), attribute)
        assert isinstance(flow, Flow), block["name"]
        if block.get("parameters"):
            flow.validate_parameters(block["parameters"])


def test_every_agent_is_run_again_by_its_own_crash_and_by_no_other() -> None:
    for block in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]:
        if "agent" in block.get("tags", []):
            (trigger,) = block["triggers"]
            assert trigger["match_related"]["prefect.resource.name"] == block["name"]
            assert trigger["after"] == ["prefect.flow-run.Running"], "a tick that can not start would loop"
