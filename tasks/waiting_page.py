"""What waits for a person's word, as people see it in the UI."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.ledger.approvals import SHOWN, Waiting
from tasks.links import Links, literally
from tasks.records import Agent
from tasks.waiting import exactly, moment, otherwise

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
