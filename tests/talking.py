"""A skill that works with tools, and a brain for the fake of Claude that works through as many turns as a case asks."""

from __future__ import annotations

import json
from typing import Any

from prefect import flow
from pydantic import BaseModel

from skills import Case, CaseId, Outcome, Unusable, each, perform, reply_to
from tasks.conversation import Limits, converse
from tests.claude.brain import Call
from tests.practice import say

PAGE = "what stands on this page of the book, and more of it. " * 40


class Found(BaseModel):
    """What came of it."""

    pages: int
    answer: str


async def read_page(number: int) -> str:
    """Read a page of the book by its number."""
    say(f"page {number}")
    if number == 13:
        raise ValueError("page 13 is torn out")
    return f"Page {number}: {PAGE}"


async def note(text: str, times: int = 1) -> dict[str, int]:
    """Write something down for later, once or several times."""
    say(f"note {text}")
    return {"kept": times}


async def work(case: Case) -> Outcome:
    limits = Limits(turns=int(case.subject.rpartition(" ")[2]), tokens=100_000_000)
    try:
        found = await converse(Found, "You read books. " * 30, case=case, tools=[read_page, note], limits=limits)
    except Unusable as why:
        return Outcome(kind="handed_over", note=why.kind)
    await perform(reply_to(case, found.answer))
    return Outcome(kind="acted", answer=str(found.pages))


@flow(name="talking", version="1")
async def talking(cases: list[CaseId]) -> None:
    """Read the pages that each case asks for."""
    await each(cases, work)


def brain(body: dict[str, Any]) -> Any:
    """Do what the case says, a word for each turn: a page's number, `note`, `nonsense`, `nobody`, `words`, `end`."""
    first = body["messages"][0]["content"]
    text = first if isinstance(first, str) else first[0]["text"]
    plan = json.loads(text.partition("<case>")[2].partition("</case>")[0])["text"].split()
    turn = sum(one["role"] == "assistant" for one in body["messages"])
    if body["tool_choice"]["type"] == "tool" or turn >= len(plan) or plan[turn] == "end":
        return Call("conclude", {"pages": turn, "answer": f"{turn} pages were read"})
    word = plan[turn]
    if word.isdigit():
        return Call("read_page", {"number": int(word)})
    return {
        "note": Call("note", {"text": f"turn {turn}"}),
        "nonsense": Call("read_page", {"number": "many", "colour": "red"}),
        "nobody": Call("delete_everything", {}),
        "words": "I think about it.",
        "wrong": Call("conclude", {"pages": "none"}),
    }[word]
