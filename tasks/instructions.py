"""Skills written as instructions: a folder with a SKILL.md in the Agent Skills format, read and checked."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import Field, ValidationError, field_validator

from tasks.conversation import Limits
from tasks.errors import BadInput
from tasks.knowledge import Knowledge, read_knowledge
from tasks.records import Record

FILE = "SKILL.md"
NAME = r"^[a-z0-9]+(-[a-z0-9]+)*$"


class _Head(Record):
    """What may stand between the two lines of dashes; the format allows nothing else."""

    name: str = Field(pattern=NAME, max_length=64)
    description: str = Field(min_length=1, max_length=1024)
    license: str = ""
    compatibility: str = Field(default="", max_length=500)
    allowed_tools: str = Field(default="", alias="allowed-tools")
    metadata: dict[str, str] = Field(default_factory=dict, validate_default=True)

    @field_validator("metadata")
    @classmethod
    def _has_a_version(cls, given: dict[str, str]) -> dict[str, str]:
        if not given.get("version"):
            raise ValueError('write `version: "1"` under it and raise it when the instructions change')
        return given


class Instructions(Record):
    """A skill that a model follows: what it is for, what it may use, how far it may go."""

    name: str
    version: str
    description: str
    tools: tuple[str, ...]
    limits: Limits
    text: str
    knowledge: Knowledge | None = None


def read_instructions(folder: Path, file: str = FILE) -> Instructions:
    """Load a skill's SKILL.md; BadInput that names the file and the field if it is broken.

    Under `metadata`: `version` (needed), `turns`, `tokens` and `seconds` (limits of a conversation) and `knowledge`,
    a knowledge base by its path from the folder.
    """
    path = folder / file
    try:
        head, text = _parts(path.read_text(encoding="utf-8"))
        given = _Head.model_validate(yaml.safe_load(head))
        limits = Limits.model_validate(
            {name: one for name, one in given.metadata.items() if name in Limits.model_fields}
        )
    except OSError as why:
        raise BadInput(f"{path} can not be read: {why}.") from why
    except (ValueError, ValidationError, yaml.YAMLError) as why:
        raise BadInput(f"{path} is broken: {why}. Mend it; no case was touched.") from why
    if given.name != folder.name:
        raise BadInput(f"{path} calls itself {given.name!r}; a skill has the name of its folder.")
    base = given.metadata.get("knowledge")
    return Instructions(
        name=given.name,
        version=given.metadata["version"],
        description=given.description,
        tools=tuple(given.allowed_tools.split()),
        limits=limits,
        text=text,
        knowledge=read_knowledge((folder / base).resolve()) if base else None,
    )


def _parts(text: str) -> tuple[str, str]:
    """The YAML between the first two lines of dashes, and what comes after them."""
    lines = text.splitlines()
    ends = [number for number, line in enumerate(lines) if line.rstrip() == "---"]
    if len(ends) < 2 or ends[0] != 0:
        raise ValueError("it must begin with `---`, YAML and `---`")
    body = "\n".join(lines[ends[1] + 1 :]).strip()
    if not body:
        raise ValueError("there are no instructions under its head")
    return "\n".join(lines[1 : ends[1]]), body
