"""JSON schemas: what structured outputs refuse, and values that are valid."""

from __future__ import annotations

import random
import re
from typing import Any

from tests.claude.errors import Refused

UNSUPPORTED = {
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "string": ("minLength", "maxLength"),
    "array": ("maxItems", "uniqueItems"),
}
FORMATS = {
    "date-time": "2026-01-02T03:04:05Z",
    "date": "2026-01-02",
    "time": "03:04:05Z",
    "duration": "PT5M",
    "email": "someone@example.com",
    "hostname": "example.com",
    "uri": "https://example.com/",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
}
WORDS = ("the order is late again and we would like to know when it will come or our money back please").split()
# The SDK writes what the API does not support at the end of the description, where a real model reads it.
LEFT_OVER = re.compile(r"\{((?:\w+: [^{}]*)(?:, \w+: [^{}]*)*)\}\s*\Z")


def refuse_unsupported(schema: Any, path: str = "output_config.format.schema") -> None:
    if not isinstance(schema, dict):
        raise Refused(400, f"{path}: Input should be a valid dictionary")
    kind = schema.get("type")
    if kind == "object" and schema.get("additionalProperties") is not False:
        raise Refused(400, f"{path}: For 'object' type, 'additionalProperties' must be explicitly set to false")
    if isinstance(kind, str) and (found := [name for name in UNSUPPORTED.get(kind, ()) if name in schema]):
        raise Refused(400, f"{path}: For '{kind}' type, properties {', '.join(found)} are not supported")
    if kind == "array" and schema.get("minItems", 0) not in (0, 1):
        raise Refused(400, f"{path}: For 'array' type, 'minItems' values other than 0 or 1 are not supported")
    if not {"type", "enum", "const", "anyOf", "allOf", "$ref"} & set(schema):
        raise Refused(400, f"{path}: Schema must have a 'type', 'anyOf', 'allOf', 'enum', 'const' or '$ref'")
    for group in ("properties", "$defs", "definitions"):
        for name, inner in (schema.get(group) or {}).items():
            refuse_unsupported(inner, f"{path}.{group}.{name}")
    for group in ("anyOf", "allOf"):
        for number, inner in enumerate(schema.get(group) or []):
            refuse_unsupported(inner, f"{path}.{group}.{number}")
    if "items" in schema:
        refuse_unsupported(schema["items"], f"{path}.items")


def instance(schema: dict[str, Any], chance: random.Random, root: dict[str, Any] | None = None, depth: int = 0) -> Any:
    """A value that `schema` allows, always the same for the same chance."""
    root = schema if root is None else root
    if "$ref" in schema:
        return instance(_referred(schema["$ref"], root), chance, root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return chance.choice(schema["enum"])
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        # Deep in a recursion only the simplest choice ends it.
        ends = [one for one in choices if one.get("type") not in ("object", "array") and "$ref" not in one]
        return instance(chance.choice(ends if depth > 6 and ends else choices), chance, root, depth + 1)
    if "allOf" in schema:
        merged = {name: value for one in schema["allOf"] for name, value in _resolved(one, root).items()}
        return instance(merged, chance, root, depth + 1)
    given = _left_over(schema.get("description", "")) | schema
    kind = given.get("type", "object")
    return _of(kind[0] if isinstance(kind, list) else kind, given, chance, root, depth)


def _of(kind: str, given: dict[str, Any], chance: random.Random, root: dict[str, Any], depth: int) -> Any:
    if kind == "object":
        return {
            name: instance(inner, chance, root, depth + 1)
            for name, inner in (given.get("properties") or {}).items()
            if name in given.get("required", []) or (depth < 6 and chance.random() < 0.5)
        }
    if kind == "array" and "prefixItems" in given:
        return [instance(inner, chance, root, depth + 1) for inner in given["prefixItems"]]
    if kind == "array":
        least = int(given.get("minItems", 0))
        most = min(int(given.get("maxItems", least + 3)), least + 3)
        count = least if depth > 6 else chance.randint(least, most)
        return [instance(given.get("items") or {"type": "string"}, chance, root, depth + 1) for _ in range(count)]
    if kind in ("integer", "number"):
        return _number(kind, given, chance)
    if kind == "boolean":
        return chance.random() < 0.5
    return None if kind == "null" else _string(given, chance)


def _number(kind: str, given: dict[str, Any], chance: random.Random) -> float:
    low = given.get("minimum", given.get("exclusiveMinimum"))
    high = given.get("maximum", given.get("exclusiveMaximum"))
    low = (0 if high is None else min(0, high - 1)) if low is None else low
    high = low + (100 if kind == "integer" else 1) if high is None else high
    if kind == "integer":
        first = int(low) + ("exclusiveMinimum" in given)
        return chance.randint(first, max(first, int(high) - ("exclusiveMaximum" in given)))
    return round(low + (high - low) * chance.uniform(0.01, 0.99), 6)


def _string(given: dict[str, Any], chance: random.Random) -> str:
    if given.get("format") == "uuid":
        return f"{chance.getrandbits(32):08x}-0000-4000-8000-{chance.getrandbits(48):012x}"
    if given.get("format") in FORMATS:
        return FORMATS[given["format"]]
    text = " ".join(chance.choice(WORDS) for _ in range(chance.randint(3, 9)))
    least, most = int(given.get("minLength", 0)), int(given.get("maxLength", 200))
    return text.ljust(least, ".")[:most]


def _referred(name: str, root: dict[str, Any]) -> dict[str, Any]:
    found: Any = root
    for step in name.removeprefix("#/").split("/") if name != "#" else []:
        found = found[step]
    return dict(found)


def _resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    return _referred(schema["$ref"], root) if "$ref" in schema else schema


def _left_over(description: str) -> dict[str, float]:
    found = LEFT_OVER.search(description)
    pairs = (pair.partition(": ") for pair in found[1].split(", ")) if found else ()
    return {name: float(value) for name, _, value in pairs if re.fullmatch(r"-?\d+(\.\d+)?", value)}
