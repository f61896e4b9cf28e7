"""What the ledger knows of an agent: its settings, its switch, its pause and the tick in hand."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select, update

from tasks.ledger.inserts import insert_or_nothing
from tasks.ledger.journal import note
from tasks.ledger.tables import agents, cases, holders, unsettled
from tasks.records import Agent


def take_agent(c: Connection, agent: Agent, dry_run: bool, holder: str) -> str:
    """Take the agent's lease for one tick and enter its settings. Returns '' or why this tick may not run."""
    values: dict[str, Any] = dict(settings=agent.model_dump_json(), dry_run=dry_run)
    c.execute(insert_or_nothing(c, agents).values(name=agent.name, **values))
    row = c.execute(select(agents).where(agents.c.name == agent.name).with_for_update()).one()
    if row.paused:
        return f"the agent is paused: {row.paused}"
    if row.draining:
        return "the agent is draining: `up` starts it again"
    if row.holder is not None:
        other = c.execute(select(holders).where(holders.c.id == row.holder, holders.c.ended == "")).one_or_none()
        if other is not None and row.holder != holder:
            return f"another tick is at work (process {other.pid}, flow run {other.flow_run or 'ad hoc'})"
    # Whatever rang before is seen by the poll of this tick.
    values |= dict(holder=holder, ticks=row.ticks + 1, rung=False)
    c.execute(update(agents).where(agents.c.name == agent.name).values(values))
    return ""


def has_agent(c: Connection, name: str, holder: str) -> bool:
    """Whether the agent's lease is still this holder's; nobody takes it before the end of the transaction."""
    return c.execute(select(agents.c.holder).where(agents.c.name == name).with_for_update()).scalar() == holder


def release_agent(c: Connection, name: str, holder: str) -> int | None:
    """Give the agent's lease back at the end of a tick that was not killed. The tick's number if something rang."""
    mine = (agents.c.name == name, agents.c.holder == holder)
    row = c.execute(select(agents.c.ticks, agents.c.rung).where(*mine).with_for_update()).one_or_none()
    c.execute(update(agents).where(*mine).values(holder=None, fruitless=0))
    return row.ticks if row is not None and row.rung else None


def rang(c: Connection, name: str) -> int | None:
    """Something came in an agent's source. The number of its last tick; None if one is at work and rings again then."""
    row = c.execute(select(agents).where(agents.c.name == name).with_for_update()).one_or_none()
    if row is None:
        return 0
    living = select(holders.c.id).where(holders.c.id == row.holder, holders.c.ended == "")
    if row.holder is None or c.execute(living).first() is None:
        return int(row.ticks)
    c.execute(update(agents).where(agents.c.name == name).values(rung=True))
    return None


def at_work(c: Connection, name: str) -> int | None:
    """The process whose tick has this agent; None between ticks."""
    held = select(holders.c.pid).join(agents, agents.c.holder == holders.c.id)
    return c.execute(held.where(agents.c.name == name, holders.c.ended == "")).scalar()


def draining(c: Connection) -> frozenset[str]:
    """The agents that shall hand their work back between two steps."""
    return frozenset(c.execute(select(agents.c.name).where(agents.c.draining)).scalars())


def switch_effects(c: Connection, name: str, on: bool, who: str) -> bool:
    """Stop or allow all effects of an agent, at once; what waited for it comes back. False for an unknown agent."""
    if c.execute(update(agents).where(agents.c.name == name).values(effects_on=on)).rowcount == 0:
        return False
    if on:
        waiting = (unsettled(), cases.c.agent == name, cases.c.state == "parked")
        c.execute(
            update(cases)
            .where(*waiting, cases.c.reason.like("effects are switched off%"))
            .values(state="open", reason="")
        )
    note(c, who, f"effects switched {'on' if on else 'off'}", agent=name)
    return True


def drain_all(c: Connection, on: bool) -> None:
    """Ask every agent to hand its work back, or let them start again."""
    c.execute(update(agents).values(draining=on))


def resume(c: Connection, name: str, who: str) -> bool:
    """Let a paused or draining agent start ticks again; False if there is none of that name."""
    values = dict(paused="", draining=False, fruitless=0)
    if c.execute(update(agents).where(agents.c.name == name).values(values)).rowcount == 0:
        return False
    note(c, who, "resumed", agent=name)
    return True


def all_agents(c: Connection) -> list[Row[tuple[object, ...]]]:
    """Every agent that ever ran a tick."""
    return list(c.execute(select(agents).order_by(agents.c.name)).all())
