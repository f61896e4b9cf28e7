"""Follows a skill that is written as instructions: a model works each case with the tools that its SKILL.md allows."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from prefect import Flow
from pydantic import BaseModel, Field

from skills import Case, Outcome, Unusable, each, perform
from tasks.conversation import converse
from tasks.instructions import FILE, Instructions, read_instructions
from tasks.ledger.effects import kinds_done
from tasks.records import Effect
from tasks.tools import named
from tasks.working import in_hand

EXCERPT = 1500  # characters of the case that the person who takes over sees at once
HOW = """
Follow these instructions for the one case that you are given. Only tools change anything: what you write beside them
reaches nobody. Call `conclude` when you are done, also if you could do nothing.
"""


class Conclusion(BaseModel):
    """What came of the case."""

    answer: str = Field(max_length=200, description="The conclusion in one short line.")
    confidence: float = Field(ge=0, le=1, description="How sure you are that what was done is right.")
    note: str = Field(default="", max_length=500, description="One sentence for the people who look at it later.")


def flow_of(folder: Path, file: str = FILE) -> Flow[..., Coroutine[Any, Any, None]]:
    """The flow of a skill that is written as instructions; BadInput if its file is broken or names no such tool."""
    how = read_instructions(folder, file)
    named(how.tools)

    async def follow_instructions(cases: list[int]) -> None:
        await each(cases, partial(_follow, how))

    return Flow(follow_instructions, name=how.name, version=how.version, description=how.description)


async def _follow(how: Instructions, case: Case) -> Outcome:
    prompt = f"{HOW}\n{how.text}"
    try:
        end = await converse(
            Conclusion, prompt, case=case, tools=named(how.tools), knowledge=how.knowledge, limits=how.limits
        )
    except Unusable as why:
        return await _given_up(case, str(why))
    done = await _done()
    kind = "handed_over" if "hand_over" in done else "acted" if done else "abstained"
    return Outcome.model_validate({"kind": kind, **end.model_dump()})


async def _given_up(case: Case, why: str) -> Outcome:
    """A person gets what the model could not conclude; what it sent before stays sent, and is named."""
    done = await _done()
    if "hand_over" not in done:
        quoted = "\n".join(f"> {line}" for line in case.text[:EXCERPT].splitlines()) or "> (empty)"
        was = f"Already done: {', '.join(sorted(done))}.\n" if done else ""
        body = f"Case {case.id} from {case.sender or 'an unknown sender'}.\nWhy you: {why}.\n{was}\n{quoted}\n"
        await perform(Effect(kind="hand_over", subject=f"For you: {case.subject[:120]}", body=body))
    return Outcome(kind="handed_over", note=why[:500])


async def _done() -> set[str]:
    """Kinds of effects that this case has had: what the ledger says, whatever the model believes."""
    hand = in_hand("see what was done")
    case, rehearsed = hand.work.case.id, hand.work.dry_run
    return await hand.ledger.read("see what was done", lambda c: kinds_done(c, case, rehearsed))
