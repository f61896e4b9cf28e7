"""What waits for a person's word, in words for people; without Prefect, for commands that need none."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from tasks.ledger.approvals import Waiting
from tasks.records import Effect


def otherwise(one: Waiting) -> str:
    """What comes when nobody speaks."""
    if one.word.then == "deny":
        return f"denied at {moment(one.word.until)}"
    return "waits on; people were told again" if one.word.what == "told" else f"told again at {moment(one.word.until)}"


def moment(at: float) -> str:
    """A time of UTC for people."""
    return f"{datetime.fromtimestamp(at, UTC):%d %b %H:%M}"


def exactly(effect: Effect) -> str:
    """Everything that would leave; a character that nobody sees, or that moves others about, is shown by its number."""
    parts = [f"{name}: {json.dumps(value)}" for name, value in _given(effect).items() if value]
    return "\n".join("".join(map(_seen, part)) for part in (*parts, "", effect.body))


def _given(effect: Effect) -> dict[str, object]:
    return effect.model_dump(mode="json", exclude={"body", "kind"}, exclude_defaults=True)


def _seen(one: str) -> str:
    return one if one.isprintable() or one in "\n\t" else f"<U+{ord(one):04X}>"
