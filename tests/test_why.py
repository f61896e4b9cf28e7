"""The story of a case in the UI tells why, and keeps to itself what a customer or anybody about one wrote."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import insert, update

from flows.why import why
from tasks.errors import BadInput
from tasks.ledger.database import Ledger
from tasks.ledger.journal import note
from tasks.ledger.story import story
from tasks.ledger.tables import attempts, cases, effects, outcomes
from tasks.ledger.verdicts import say
from tasks.links import literally
from tasks.records import Evidence, Outcome, Policy
from tests.conftest import arrival, fill
from tests.servers import ask_prefect

SECRET = "my card 4711"
PLACES = ("key", "thread", "body", "reason", "attempt", "channel", "effect", "evidence", "note", "verdict", "journal")
HOSTILE = "[refund](http://evil.example) ![x](http://evil.example/p.png) <b>now</b>\n\n# All | of `it`"


def worked(c: Any, answer: str) -> None:
    """A case that says its secret wherever a word of the customer's can come to lie."""
    said = {place: f"{SECRET} in {place}" for place in PLACES}
    kept = dict(key=said["key"], thread=said["thread"], body=said["body"], reason=said["reason"])
    c.execute(update(cases).values(state="settled", fence=1, policy=Policy(threshold=0.6).model_dump_json(), **kept))
    row = dict(case=1, fence=1, holder="h", skill="answer", version="1", flow_run="f-1", begun=1.0, ended=2.0)
    c.execute(insert(attempts).values(row | dict(how="error", why=said["attempt"], replayed=3)))
    out = dict(key="k", case=1, kind="reply", channel=said["channel"], body=said["body"], state="confirmed", fence=1)
    c.execute(insert(effects).values(out | dict(why=said["effect"], at=1.5)))
    leaning = (Evidence(source="knowledge/refunds#2", text=said["evidence"], weight=0.8),)
    came = Outcome(kind="acted", answer=answer, confidence=0.93, evidence=leaning, note=said["note"])
    row = dict(case=1, fence=1, agent="desk", skill="answer", version="1", kind="acted", answer=answer, at=1.8)
    c.execute(insert(outcomes).values(row | dict(rehearsed=False, body=came.model_dump_json(), flow_run="f-1")))
    say(c, 1, False, "Ann", "late_parcel", said["verdict"])
    note(c, "Ben", f"released: {said['journal']}", case=1)


@pytest.fixture
def desk(ledger: Ledger, prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    fill(ledger, tmp_path, [arrival(1)])
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield ledger


def shown(api: str) -> str:
    found = ask_prefect(api, "GET", "/artifacts/case-1/latest")
    return str(found["description"]) + str(found["data"])


def test_the_story_in_the_ui_says_why_and_holds_no_words_of_a_customer(desk: Ledger, prefect_server: str) -> None:
    desk.write_now("work", lambda c: worked(c, "refunds"))
    asyncio.run(why(case=1))
    text = shown(prefect_server)
    parts = ("answer 1", "acted refunds (0.93, acts from 0.60 on)", "leant on knowledge/refunds#2 (0.80)")
    parts += ("reply is confirmed", "wrong, it should have been late_parcel", "Ben: released", "3 finished step(s)")
    assert [one for one in parts if one not in text] == [] and SECRET not in text
    assert "/runs/flow-run/f-1)" in text
    told = desk.read_now("look", lambda c: story(c, 1))
    terminal = "\n".join(one.what + one.words for one in told)
    assert [one for one in PLACES if one != "body" and f"{SECRET} in {one}" not in terminal] == []


def test_what_a_model_concluded_makes_no_link_picture_or_heading_of_the_story(
    desk: Ledger, prefect_server: str
) -> None:
    desk.write_now("work", lambda c: worked(c, HOSTILE))
    asyncio.run(why(case=1))
    page = MarkdownIt("commonmark").enable("table").render(shown(prefect_server).partition("\n")[2])
    assert "evil.example" in page, "the model's words are not shown at all"
    assert [one for one in ('href="http://evil', "<img", "<b>", "<code>it", "All</h1>") if one in page] == []


def test_words_of_others_are_shown_as_they_are() -> None:
    page = MarkdownIt("commonmark").render(literally("a_b *c* [d](e) `f` 5 < 6 # 7 \\ 8~"))
    assert page == "<p>a_b *c* [d](e) `f` 5 &lt; 6 # 7 \\ 8~</p>\n"


@pytest.mark.parametrize("case", [2, 2**40])
def test_a_case_that_nobody_knows_is_named(desk: Ledger, case: int) -> None:
    with pytest.raises(BadInput, match=f"There is no case {case}"):
        asyncio.run(why(case=case))
