"""What a model would say: by a script, and else by chance that the request itself decides."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.claude.errors import Body
from tests.claude.prompt import asked, request_hash
from tests.claude.schema import instance


class Call(NamedTuple):
    """A tool to be called."""

    tool: str
    input: Body


Say = str | Call | Body  # text, a tool call, or a structured answer (which becomes JSON text)
Brain = Callable[[Body], Say | list[Say]]


def chance_brain(body: Body) -> Say | list[Say]:
    """Valid by the schema, deterministic, and without sense; calls tools only when `tool_choice` makes it."""
    chance = random.Random(request_hash(body))
    choice = body.get("tool_choice") or {}
    own = [tool for tool in body.get("tools") or [] if "input_schema" in tool]
    if choice.get("type") in ("any", "tool") and own:
        tool = chance.choice([one for one in own if choice.get("name", one["name"]) == one["name"]])
        return Call(tool["name"], instance(tool["input_schema"], chance))
    if shape := (body.get("output_config") or {}).get("format"):
        found = instance(shape["schema"], chance)
        return found if isinstance(found, dict) else [{"json": found}]
    return "I see. " + str(instance({"type": "string"}, chance)).capitalize() + "."


def load(name: str) -> Brain:
    module, _, function = name.partition(":")
    found: Brain = getattr(importlib.import_module(module), function)
    return found


class Script:
    """Turns for conversations whose last text of the user's contains a substring; the first that fits is played.

    A turn is a text, {"tool": name, "input": {...}}, {"json": anything}, or a list of these. After its last turn a
    conversation is the brain's again.
    """

    def __init__(self, brain: Brain) -> None:
        self._brain = brain
        self._answers: list[tuple[str, list[Any]]] = []

    def add(self, answers: list[Body]) -> None:
        self._answers = [(one["match"], one["turns"]) for one in answers] + self._answers

    def __call__(self, body: Body) -> list[Say]:
        text, turn = asked(body)
        for match, turns in self._answers:
            if match in text and turn < len(turns):
                return _read(turns[turn])
        return _read(self._brain(body))


def _read(turn: Any) -> list[Say]:
    if isinstance(turn, Call) or not isinstance(turn, list):
        turn = [turn]
    return [Call(one["tool"], one.get("input", {})) if _is_call(one) else one for one in turn]


def _is_call(one: Any) -> bool:
    return isinstance(one, dict) and isinstance(one.get("tool"), str) and set(one) <= {"tool", "input"}
