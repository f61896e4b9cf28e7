"""From an agent's budget to the limits that a call is checked against."""

from __future__ import annotations

from tasks.ledger.calls import Limit, Short, today
from tasks.prices import NANO
from tasks.records import Agent


def day_limits(agent: Agent, day: str) -> list[Limit]:
    """Limits of this agent for a UTC day, of all its cases together."""
    budget = agent.budget
    found = [Limit(("agent", agent.name, day), _nano(budget.usd_per_day), budget.tokens_per_day)]
    found += [
        Limit(("skill", f"{agent.name}/{skill}", day), _nano(usd), None)
        for skill, usd in budget.usd_per_day_of_skill.items()
    ]
    return [one for one in found if one.usd is not None or one.tokens is not None]


def limits(agent: Agent, case: int, day: str = "") -> list[Limit]:
    """Every limit that a call for this case is under on a UTC day, by default today."""
    budget = agent.budget
    own = Limit(("case", str(case), ""), _nano(budget.usd_per_case), budget.tokens_per_case)
    return [*day_limits(agent, day or today()), *([own] if own.usd is not None or own.tokens is not None else [])]


def explain(short: Short, wanted: int) -> str:
    """For people: which limit, what is left, what to do."""
    scope, name, day = short.limit.place
    left, want = (f"{one / NANO:.4f} USD" if short.unit == "usd" else f"{one} tokens" for one in (short.left, wanted))
    when = f" for {day}" if day else ""
    later = " or wait for the next day (UTC)" if day else ""
    return (
        f"budget: the limit of {scope} {name!r}{when} leaves {left}, and the next call may take {want}. "
        f"Raise it with the deployment `top-up`{later}; the case goes on where it stands"
    )


def _nano(usd: float | None) -> int | None:
    return None if usd is None else round(usd * NANO)
