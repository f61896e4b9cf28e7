"""The story of a case as people read it in the UI, and of the decisions that were worst."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from tasks.ledger.story import Line, Told
from tasks.links import Links, literally


def page(case: int, told: Sequence[Line], links: Links) -> str:
    """All of it, for an artifact."""
    say = links.judge(case, "Say whether it was right")
    more = f"What customers and people wrote stands in the ledger alone: `python -m deployments why {case}`."
    return "\n\n".join((f"# Case {case}", lines(told, links), *([say] if say else []), more)) + "\n"


def lines(told: Sequence[Line], links: Links) -> str:
    """A list with one line for each thing that happened, without customers' words; times are in UTC."""
    found = []
    for one in told:
        run = f" ({links.run('its run', one.flow_run)})" if one.flow_run else ""
        # What lies within something else is near it in time.
        at = "  - " if one.what.startswith(" ") else f"- {datetime.fromtimestamp(one.at, UTC):%d %b %H:%M:%S}  "
        found.append(f"{at}{literally(one.what)}{run}")
    return "\n".join(found)


def worst(told: Sequence[Told], links: Links) -> str:
    """The worst decisions one by one: what was done, what should have been, who says so, and how it came to that."""
    found = []
    for place, (one, story) in enumerate(told, 1):
        sure = "" if one.confidence is None else f", {one.confidence:.2f} sure"
        should = f"It should have been **{literally(one.label)}**" if one.label else "It was wrong"
        leant = f" It leant on {literally(one.because)}." if one.because else ""
        say = links.judge(one.case, "Say what was right")
        found += [
            f"### {place}. Case {one.case}: acted as {literally(one.answer) or 'nothing named'}{sure}",
            f"{should}, says {says(one.source)}.{leant}{say and f' {say}.'}",
            lines(story, links),
        ]
    return "\n\n".join(found)


def says(source: str) -> str:
    """Whose word a verdict is, for people."""
    return {"person": "a person", "signal": "the customer, who wrote again"}.get(source, "a judge model")
