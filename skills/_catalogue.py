"""Which skills and versions of them there are, found in this room without a list that has to be kept."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from prefect import Flow

from tasks.errors import BadInput
from tasks.knowledge import Knowledge

SKILLS = Path(__file__).parent
SKILL_FILES = ("__init__.py", "SKILL.md")
SkillFlow = Flow[..., Coroutine[Any, Any, None]]


def catalogue() -> dict[str, Path]:
    """Every skill there is: a module, a package, or a folder with a SKILL.md, in this room."""
    found = [one for one in SKILLS.iterdir() if not one.name.startswith(("_", "."))]
    return {
        one.stem: one for one in found if one.suffix == ".py" or any((one / name).is_file() for name in SKILL_FILES)
    }


def _found(name: str) -> Path:
    if name not in (known := catalogue()):
        raise BadInput(f"No skill is called {name!r}. Skills here: {', '.join(sorted(known))}.")
    return known[name]


def _is_written_as_instructions(path: Path) -> bool:
    return path.is_dir() and not (path / "__init__.py").is_file()


def describe(name: str) -> str:
    """What a skill is for, as whoever chooses among skills reads it: its description, or its module's docstring."""
    path = _found(name)
    if _is_written_as_instructions(path):
        from tasks.instructions import read_instructions

        return read_instructions(path).description
    # Not parsed: two threads that do it at once can make either fail in Python 3.11 (gh-106905).
    return inspect.cleandoc(importlib.import_module(f"skills.{name}").__doc__ or name)


def versions(name: str) -> dict[str, SkillFlow]:
    """The flow of each version of a skill that the code has, the one that counts without a release first.

    That is the one in the skill's module that has its name; others are further flows there with the same Prefect name,
    or files such as `SKILL.2.md` beside a SKILL.md. BadInput if there is none, or a version stands for two.
    """
    path = _found(name)
    if _is_written_as_instructions(path):
        from skills._follow import flow_of

        others = sorted(one.name for one in path.glob("SKILL.*.md"))
        flows = [flow_of(path, file) for file in ("SKILL.md", *others)]
    else:
        module = importlib.import_module(f"skills.{name}")
        first = getattr(module, name, None)
        if not isinstance(first, Flow):
            raise BadInput(f"skills/{name} has no flow called {name}. Name the function under @flow like its module.")
        rest = [one for one in vars(module).values() if isinstance(one, Flow) and one.name == first.name]
        flows = [first, *(one for one in rest if one is not first)]
    found = {str(one.version): one for one in flows}
    if len(found) < len(flows):
        raise BadInput(f"Two flows of skills/{name} have the same version; a finished step could not tell them apart.")
    return found


def skill_flow(name: str, version: str = "") -> SkillFlow:
    """The flow of a skill in that version, or in the one that counts without a release if the code has it no more."""
    found = versions(name)
    return found.get(version) or next(iter(found.values()))


def can_keep_rules(name: str) -> bool:
    """Whether a skill knows its answer before it acts: one that follows instructions concludes when all is done."""
    path = catalogue().get(name)
    return path is not None and not _is_written_as_instructions(path)


def knowledge_of(name: str) -> Knowledge | None:
    """What the embedded model reads by for a skill whose module has a `knowledge()`; None for any other skill."""
    path = catalogue().get(name)
    if path is None or _is_written_as_instructions(path):
        return None
    found = getattr(importlib.import_module(f"skills.{name}"), "knowledge", None)
    if found is None:
        return None
    if not isinstance(known := found(), Knowledge):
        raise BadInput(f"knowledge() of skills/{name} returns {type(known).__name__}; let it return a Knowledge.")
    return known
