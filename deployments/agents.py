"""The commands for one agent: switch, resume, ring."""

from __future__ import annotations

import asyncio
from typing import Annotated

import httpx
import typer

from deployments.console import WHO, fail, out
from deployments.enter import server
from tasks.ledger import the_ledger
from tasks.ledger.agents import resume as start_again
from tasks.ledger.agents import switch_effects

app = typer.Typer()


@app.command()
def switch(agent: str, to: Annotated[str, typer.Argument(help="`on` or `off`")]) -> None:
    """Stop all effects of an agent at once, or allow them again."""
    if to not in ("on", "off"):
        raise fail("Say `on` or `off`.")
    if not the_ledger().write_now(f"switch {agent}", lambda c: switch_effects(c, agent, to == "on", WHO)):
        raise fail(f"No agent called {agent!r} ever ran a tick.")
    out.print(f"Effects of {agent} are {to}.")


@app.command()
def resume(agent: str) -> None:
    """Let an agent go on that was paused because its ticks kept dying."""
    if not the_ledger().write_now(f"resume {agent}", lambda c: start_again(c, agent, WHO)):
        raise fail(f"No agent called {agent!r} ever ran a tick.")
    out.print(f"{agent} goes on with its next tick.")


@app.command()
def ring(agent: str) -> None:
    """Start a tick of an agent at once; one more follows if one is at work."""
    api = server()
    from tasks.ring import ring as ring_at

    try:
        rung = asyncio.run(ring_at(the_ledger(), agent))
    except httpx.HTTPError as why:
        raise fail(f"Prefect's server at {api} does not answer ({why}); see `doctor`.") from why
    if rung.what in ("unknown", "paused"):
        raise fail(rung.text)
    out.print(rung.text, markup=False)
