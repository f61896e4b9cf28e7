"""Splits an alert's expression into what it measures and the threshold that this must not pass."""

from __future__ import annotations

import math
import re

from skills.triage_incident.findings import Limit

SIGN = re.compile(r">=|<=|==|!=|>|<")
WORD = re.compile(r"[A-Za-z_:][\w:]*")
TURNED = {">": "<", ">=": "<=", "<": ">", "<=": ">=", "==": "==", "!=": "!="}
OPEN, CLOSED = "([{", ")]}"


def limit_of(query: str) -> Limit | None:
    """The two sides of `measured > number`; None for anything that is not just that."""
    query = _bare(query.strip())
    signs: list[re.Match[str]] = []
    for place in _outside(query):
        word = WORD.match(query, place)
        if word and (place == 0 or not WORD.match(query, place - 1)):
            if word[0].lower() in ("and", "or", "unless", "bool"):
                return None
        elif (sign := SIGN.match(query, place)) and not (signs and place < signs[-1].end()):
            signs.append(sign)
    if len(signs) != 1:
        return None
    left, right, how = query[: signs[0].start()].strip(), query[signs[0].end() :].strip(), signs[0][0]
    if (number := _number(right)) is None:
        left, right, how = right, left, TURNED[how]
        number = _number(right)
    if number is None or not left or _number(left) is not None:
        return None
    return Limit.model_validate(dict(measured=left, how=how, threshold=number))


def _outside(query: str) -> list[int]:
    """The places that stand in no bracket and no quotes."""
    found, depth, quote, skip = [], 0, "", False
    for place, one in enumerate(query):
        if quote:
            if skip:
                skip = False
            elif one == "\\" and quote != "`":
                skip = True
            elif one == quote:
                quote = ""
        elif one in "\"'`":
            quote = one
        elif one in OPEN:
            depth += 1
        elif one in CLOSED:
            depth -= 1
        elif depth == 0:
            found.append(place)
    return found


def _bare(query: str) -> str:
    """Without brackets around all of it."""
    while query.startswith("(") and query.endswith(")") and not _outside(query):
        query = query[1:-1].strip()
    return query


def _number(text: str) -> float | None:
    text = _bare(text)
    if not re.fullmatch(r"[-+]?\s*(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text):
        return None
    found = float(text.replace(" ", ""))
    return found if math.isfinite(found) else None
