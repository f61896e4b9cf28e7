"""The commands for effects that wait for a person's word: waiting, permit, deny."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from deployments.console import WHO, fail, out
from tasks.ledger import the_ledger
from tasks.ledger.approvals import SHOWN, decide, what_waits
from tasks.waiting import exactly, moment, otherwise

app = typer.Typer()
Digest = Annotated[str, typer.Argument(help="Of exactly the effect that you looked at, as `waiting` shows it.")]
Why = Annotated[str, typer.Option(help="For whoever reads the case later; a model that asked is told, too.")]


@app.command()
def waiting(case: Annotated[int, typer.Argument(help="One case, with every word that would leave.")] = 0) -> None:
    """List the effects that wait for a person's word."""
    listed = the_ledger().read_now("list what waits", lambda c: what_waits(c, case=case))
    for one in listed:
        head = f"case {one.case} of {one.agent}: {one.effect.kind} since {moment(one.since)}, {otherwise(one)} (UTC)"
        out.print(f"{one.word.digest[:SHOWN]}  {head}", soft_wrap=True, markup=False)
        if case:
            out.print(f"by {one.channel}\n\n{exactly(one.effect)}\n", soft_wrap=True, markup=False)
    if not listed:
        out.print("Nothing waits for a person's word.")


@app.command()
def permit(
    case: int,
    digest: Digest,
    subject: Annotated[str | None, typer.Option(help="Send this subject instead.")] = None,
    text: Annotated[Path | None, typer.Option(help="A file: send its text instead.")] = None,
    data: Annotated[str | None, typer.Option(help="JSON: send this data instead, such as fewer minutes.")] = None,
    why: Why = "",
) -> None:
    """Let an effect leave that waits, as it is or in your words; the next tick sends it."""
    instead: dict[str, Any] = {} if subject is None else {"subject": subject}
    try:
        instead |= {} if text is None else {"body": text.read_text(encoding="utf-8")}
        instead |= {} if data is None else {"data": json.loads(data)}
    except (OSError, ValueError) as wrong:
        raise fail(f"That can not be sent instead: {wrong}") from None
    _decided(case, digest, True, why, instead)


@app.command()
def deny(case: int, digest: Digest, why: Why = "") -> None:
    """Let an effect that waits never leave; its skill may conclude otherwise, or a person gets the case."""
    _decided(case, digest, False, why, {})


def _decided(case: int, digest: str, yes: bool, why: str, instead: dict[str, Any]) -> None:
    word = (case, digest, yes, WHO, why, instead)
    if not the_ledger().write_now(f"decide on an effect of case {case}", lambda c: decide(c, *word)):
        out.print("This was said before; nothing is changed.")
        return
    sent = "permitted, in your words" if instead else "permitted" if yes else "denied"
    out.print(f"It is {sent}; case {case} goes on with the next tick.")
