"""Tools: plain typed functions with docstrings, as a model sees them and as it may call them."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from tasks.errors import BadInput, Halt, NotNow, NotSent, Parked, Unavailable
from tasks.records import Record

Tool = Callable[..., Awaitable[Any]]
LONGEST = 20_000  # characters of a result that a model is shown


class Used(Record):
    """What a tool call came to, as the model reads it."""

    text: str
    failed: bool = False
    seconds: float = 0.0


@lru_cache(maxsize=1)
def _all() -> Mapping[str, Tool]:
    found: dict[str, Tool] = {}
    for file in pkgutil.iter_modules(__path__, f"{__name__}."):
        for name, one in vars(importlib.import_module(file.name)).items():
            if inspect.iscoroutinefunction(one) and one.__module__ == file.name and not name.startswith("_"):
                if name in found:
                    raise BadInput(f"Two tools are called {name}: in {found[name].__module__} and in {file.name}.")
                found[name] = one
    return found


def named(names: Sequence[str]) -> list[Tool]:
    """The tools of these names: public `async def` functions of the files in this room. BadInput for others."""
    if missing := [one for one in names if one not in _all()]:
        raise BadInput(f"There is no tool {missing[0]!r}. Tools here: {', '.join(sorted(_all()))}.")
    return [_all()[one] for one in names]


class Toolbox:
    """Tools by name. BadInput for one that a model could not use rightly."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = {one.__name__: one for one in tools}
        self._shapes = {name: _shape(one) for name, one in self._tools.items()}
        if len(self._tools) != len(tools):
            raise BadInput("Two tools have one name; a model could not tell them apart.")

    def shown(self) -> list[dict[str, Any]]:
        """As the API takes them, in the order of their names, so that the prefix in the provider's cache is stable."""
        return [
            {
                "name": name,
                "description": inspect.getdoc(self._tools[name]) or "",
                "input_schema": self._shapes[name].model_json_schema(),
            }
            for name in sorted(self._tools)
        ]

    async def use(self, name: str, given: dict[str, Any]) -> Used:
        """Call a tool as the model asked. What is wrong with the call or goes wrong in it, the model is told as text.

        Only what concerns the case as a whole is raised: a wait, a refusal to go on, a lost ledger.
        """
        tool = self._tools.get(name)
        if tool is None:
            return Used(text=f"There is no tool {name!r}. Tools: {', '.join(sorted(self._tools))}.", failed=True)
        try:
            arguments = self._shapes[name].model_validate(given)
        except ValidationError as why:
            wrong = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'input'}: {one['msg']}" for one in why.errors())
            return Used(text=f"These arguments do not fit: {wrong}", failed=True)
        try:
            found = await tool(**{field: getattr(arguments, field) for field in type(arguments).model_fields})
        except (Parked, NotNow, NotSent, Unavailable, Halt):
            raise
        except Exception as why:
            return Used(text=f"{type(why).__name__}: {why}"[:2_000], failed=True)
        return Used(text=_told(found))


def _shape(tool: Tool) -> type[BaseModel]:
    """The model that a tool's arguments are checked against."""
    name, doc = getattr(tool, "__name__", ""), inspect.getdoc(tool)
    if not inspect.iscoroutinefunction(tool) or not doc:
        raise BadInput(f"The tool {name or tool!r} must be an `async def` with a docstring: a model chooses by it.")
    hints, fields = get_type_hints(tool, include_extras=True), {}
    for one in inspect.signature(tool).parameters.values():
        if one.name not in hints or one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            raise BadInput(f"The parameter {one.name!r} of the tool {name} has no type that a model could be told.")
        fields[one.name] = (hints[one.name], Field() if one.default is one.empty else one.default)
    made: type[BaseModel] = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)  # type: ignore[call-overload]
    return made


def _told(found: object) -> str:
    if isinstance(found, str):
        text = found
    else:
        text = json.dumps(TypeAdapter(Any).dump_python(found, mode="json"), ensure_ascii=False)
    if not text.strip():
        return "(nothing)"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} [cut: {len(text)} characters in all]"
