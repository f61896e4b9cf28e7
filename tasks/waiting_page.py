"""What waits for a person's word, as people see it in the UI and at a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from tasks.ledger.approvals import SHOWN, Waiting
from tasks.links import Links, literally
from tasks.records import Agent, Effect

HOW = (
    "A word counts for exactly the effect that was shown with this digest, and the first word counts. What customers "
    "and agents wrote stands in the ledger alone: `python -m deployments waiting CASE`."
)


def page(agent: Agent, rows: Sequence[Waiting], links: Links) -> str:
    """All that waits of an agent; with the words of kinds that may be shown in Prefect."""
    if not rows:
        return f"# Nothing of {agent.name} waits for a person's word\n"
    table = ["| case | effect | digest | since (UTC) | if nobody speaks | |", "|---|---|---|---|---|---|"]
    shown = []
    for one in rows:
        digest = one.word.digest[:SHOWN]
        ways = f"{links.decide(one.case, one.word.digest)}, {links.ask_why(one.case)}"
        kind = literally(one.effect.kind)
        table.append(f"| {one.case} | {kind} | `{digest}` | {moment(one.since)} | {otherwise(one)} | {ways} |")
        policy = agent.approvals.get(one.effect.kind)
        if policy is not None and policy.show:
            text = "\n".join(f"    {line}" for line in exactly(one.effect).split("\n"))
            shown.append(f"Case {one.case}, `{digest}`:\n\n{text}")
    return "\n\n".join(("# Waits for a person's word", "\n".join(table), HOW, *shown)) + "\n"


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
