"""Choose one of an agent's skills for a case by their descriptions, ignore it, or give it to a person."""

from __future__ import annotations

from prefect import flow, task
from pydantic import BaseModel, Field

from skills import ONCE_PER_CASE, PAID, Case, CaseId, Outcome, Routed, Unusable, ask, describe, each, perform
from tasks.records import Effect
from tasks.working import in_hand

PERSON, IGNORE = "person", "ignore"
CHOOSE = """
You sort the work of an agent. In <offered> you find its skills with what each is for, and two more ways out. Choose the
one that the case in <case> needs. When none fits, or several do and it matters which, choose the person.
"""
WAYS_OUT = {
    PERSON: "Somebody has to look at it: no skill fits, it is a threat, a legal matter, or something unusual.",
    IGNORE: "Nobody expects anything: advertising, an automatic notice, a bare thank-you.",
}


class Choice(BaseModel):
    """Which way a case goes."""

    skill: str = Field(description="One of the names offered.")
    why: str = Field(max_length=300)


@task(cache_policy=ONCE_PER_CASE, task_run_name="choose a skill for case {case.id}", **PAID)
async def choose(case: Case, offered: dict[str, str]) -> Choice:
    """Ask the model for one of the names that are offered."""
    return await ask(Choice, CHOOSE, case=case, offered=offered)


async def route(case: Case) -> Outcome | Routed:
    mine = [name for name in in_hand("decide").work.agent.skills if name != decide.name]
    try:
        choice = await choose(case, {name: describe(name) for name in mine} | WAYS_OUT)
    except Unusable as unusable:
        return await _to_a_person(case, str(unusable))
    if choice.skill in mine:
        return Routed(skill=choice.skill, why=choice.why)
    if choice.skill == IGNORE:
        return Outcome(kind="abstained", answer="ignored", note=choice.why)
    # A name that was not offered comes from the case's text, or from nowhere: it chooses nothing.
    why = choice.why if choice.skill == PERSON else f"the model chose {choice.skill[:60]!r}, which was not offered"
    return await _to_a_person(case, why)


async def _to_a_person(case: Case, why: str) -> Outcome:
    quoted = "\n".join(f"> {line}" for line in case.text[:1500].splitlines()) or "> (empty)"
    body = f"Case {case.id} from {case.sender or 'an unknown sender'}.\nWhy you: {why}\n\n{quoted}\n"
    await perform(Effect(kind="hand_over", subject=f"For you: {case.subject[:120]}", body=body))
    return Outcome(kind="handed_over", answer="no skill", note=why[:500])


@flow(name="decide", version="1")
async def decide(cases: list[CaseId]) -> None:
    """Choose one of an agent's skills for each case, ignore it, or give it to a person."""
    await each(cases, route)
