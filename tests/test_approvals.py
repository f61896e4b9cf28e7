"""What waits for a person leaves once and as it was permitted, or never; whatever is killed, upgraded or forgotten."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import httpx
import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import select, update

import tasks.effects
from flows import loop
from flows.permit import permit
from tasks.errors import BadInput, NotSent
from tasks.ledger.again import redo, release
from tasks.ledger.agents import switch_effects
from tasks.ledger.approvals import Waiting, decide, digest_of, run_out, what_waits, words_of
from tasks.ledger.database import Ledger
from tasks.ledger.story import story
from tasks.ledger.tables import attempts, cases, outcomes
from tasks.records import Agent, Approval, Effect
from tasks.report import show_waiting
from tasks.waiting_page import exactly
from tests.conftest import arrival, fill
from tests.paging import FIRST, SECOND, paging, paging_anew

HOUR, WEEK = 3_600.0, 7 * 86_400.0


class Watch:
    """An agent that may page only on a person's word, with one case."""

    def __init__(self, ledger: Ledger, box: Path, text: str = "", dry_run: bool = False, **settings: Any) -> None:
        self.ledger, self.box = ledger, box
        given = {"effects": {"page": f"maildir:{box / 'pages'}"}, "approvals": {"page": {}}, "skills": ["paging"]}
        self.given: dict[str, Any] = given | settings
        fill(ledger, box, [arrival(1, body=text)], dry_run=dry_run, **self.given)

    def configure(self, dry_run: bool = False, **settings: Any) -> None:
        fill(self.ledger, self.box, [], dry_run=dry_run, **(self.given | settings))

    def work(self, flow: Any = paging) -> None:
        asyncio.run(flow(cases=[1]))

    def waits(self) -> list[Waiting]:
        return self.ledger.read_now("look", what_waits)

    def say(self, permit: bool = True, who: str = "ann", digest: str = "", **words: Any) -> bool:
        digest = digest or self.waits()[0].word.digest[:12]
        return self.ledger.write_now("decide", lambda c: decide(c, 1, digest, permit, who, **words))

    def run_out(self) -> list[str]:
        return self.ledger.write_now("see what nobody spoke of", run_out)

    def state(self) -> str:
        row = self.ledger.read_now("look", lambda c: c.execute(select(cases)).one())
        return str(row.state)

    def came(self) -> list[tuple[str, str]]:
        found = select(outcomes.c.kind, outcomes.c.answer).order_by(outcomes.c.id)
        return [tuple(row) for row in self.ledger.read_now("look", lambda c: c.execute(found).all())]

    def looked(self) -> int:
        return (self.box / "log").read_text().count("look")

    def pages(self, box: str = "pages") -> list[str]:
        """What lies outside."""
        files = sorted((self.box / box / "new").glob("*"))
        read = [message_from_bytes(one.read_bytes(), policy=policy.default) for one in files]
        return [str(one.get_content()).strip() for one in read]

    def said(self) -> list[str]:
        return [row.what for row in self.ledger.read_now("look", lambda c: words_of(c, 1))]


@pytest.fixture
def here(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_server: str):  # type: ignore[no-untyped-def]
    (tmp_path / "log").touch()
    monkeypatch.setenv("PRACTICE_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield lambda *words, **settings: Watch(ledger, tmp_path, *words, **settings)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    real = time.time
    return lambda seconds: monkeypatch.setattr(time, "time", lambda: real() + seconds)


Here = Callable[..., Watch]


def test_nothing_leaves_before_a_person_said_so_and_then_exactly_one_page(here: Here) -> None:
    watch = here()
    watch.work()
    (one,) = watch.waits()
    assert (watch.state(), watch.pages(), one.effect.body) == ("parked", [], FIRST)
    assert watch.ledger.write_now("release", lambda c: release(c, 1, "ann"))
    watch.work()
    assert (watch.state(), watch.pages(), watch.said()) == ("parked", [], ["asked"]), "a release is no permission"
    assert watch.say()
    watch.work()
    assert (watch.state(), watch.pages(), watch.looked()) == ("settled", [FIRST], 1)
    watch.work()
    assert watch.pages() == [FIRST] and watch.came() == [("acted", "page")]
    told = "\n".join(line.what for line in watch.ledger.read_now("look", lambda c: story(c, 1)))
    assert "a person is asked, by paging/1/0" in told and "permitted by ann" in told


def test_a_page_of_a_week_ago_survives_an_upgrade_that_wants_the_same(
    here: Here, later: Callable[[float], None]
) -> None:
    watch = here("same", approvals={"page": {"hours": 10 * 24}})
    watch.work()
    later(WEEK)
    assert watch.run_out() == []
    assert watch.say()
    watch.work(paging_anew)
    assert (watch.pages(), watch.said(), watch.state()) == ([FIRST], ["asked", "permitted"], "settled")


def test_what_was_permitted_before_an_upgrade_is_no_permission_for_other_words(here: Here) -> None:
    watch = here()
    watch.work()
    before = watch.waits()[0].word.digest
    assert watch.say()
    watch.work(paging_anew)
    (one,) = watch.waits()
    assert (watch.pages(), one.effect.body, watch.state()) == ([], SECOND, "parked")
    with pytest.raises(BadInput, match="in other words by now"):
        watch.say(digest=before)
    assert watch.say()
    watch.work(paging_anew)
    assert watch.pages() == [SECOND] and watch.said() == ["asked", "permitted", "asked", "permitted"]


def test_words_that_change_at_every_attempt_are_asked_about_once_and_leave_as_they_were_shown(here: Here) -> None:
    watch = here("restless")
    watch.work()
    shown = watch.waits()[0].effect.body
    watch.ledger.write_now("release", lambda c: release(c, 1, "ann"))
    watch.work()
    assert watch.said() == ["asked"] and watch.say()
    watch.work()
    assert watch.pages() == [shown]


def test_a_person_sends_other_words_to_the_same_place_and_both_are_kept(here: Here) -> None:
    watch = here()
    watch.work()
    with pytest.raises(BadInput, match="more than 20000"):
        watch.say(instead={"body": "x" * 20_001})
    with pytest.raises(BadInput, match="can not be sent"):
        watch.say(instead={"body": 7})
    assert watch.say(instead={"body": "Call Bob.", "to": "evil@example.com", "kind": "reply"})
    watch.work()
    rows = watch.ledger.read_now("look", lambda c: words_of(c, 1))
    asked, edited = (Effect.model_validate_json(row.body) for row in rows)
    assert (asked.body, edited.body, edited.to, edited.kind) == (FIRST, "Call Bob.", "", "page")
    assert watch.pages() == ["Call Bob."] and watch.came() == [("acted", "page")]
    assert rows[1].digest == rows[0].digest != rows[1].sends, "it is not known what the word was about"


@pytest.mark.parametrize(
    ("text", "more", "came", "handed"),
    [
        ("resigned", {}, ("abstained", "nobody was paged"), 0),
        ("", {}, ("abstained", "denied"), 0),
        ("", {"hand_over": "maildir:{box}/over"}, ("handed_over", "denied"), 1),
    ],
)
def test_what_is_denied_never_leaves_and_its_case_does_not_loop(
    here: Here, tmp_path: Path, text: str, more: dict[str, str], came: tuple[str, str], handed: int
) -> None:
    more = {kind: url.format(box=tmp_path) for kind, url in more.items()}
    watch = here(text, effects={"page": f"maildir:{tmp_path / 'pages'}", **more})
    watch.work()
    assert watch.say(False, why="it is a drill")
    watch.work()
    assert (watch.state(), watch.pages(), watch.came(), watch.looked()) == ("settled", [], [came], 1)
    over = watch.pages("over")
    assert len(over) == handed and all("denied by ann: it is a drill" in one for one in over)
    hows = watch.ledger.read_now("look", lambda c: c.execute(select(attempts.c.how)).scalars().all())
    assert list(hows) == ["parked", "settled"]


def test_a_denied_page_is_asked_about_again_only_if_a_person_wants_the_case_worked_again(here: Here) -> None:
    watch = here()
    watch.work()
    watch.say(False)
    watch.work()
    watch.ledger.write_now("redo", lambda c: redo(c, 1, "ann"))
    watch.work()
    assert watch.said() == ["asked", "denied", "asked"] and watch.say()
    watch.work()
    assert watch.pages() == [FIRST]


def test_of_two_people_the_first_counts_and_the_second_is_told(here: Here) -> None:
    watch = here()
    watch.work()
    digest = watch.waits()[0].word.digest
    others = [Ledger(watch.ledger.url) for _ in range(6)]

    def say(number: int) -> str:
        word = (1, digest, number % 2 == 0, f"person {number}")
        try:
            return str(others[number].write_now("decide", lambda c: decide(c, *word)))
        except BadInput as why:
            return str(why)

    with ThreadPoolExecutor(6) as pool:
        heard = list(pool.map(say, range(6)))
    rows = watch.ledger.read_now("look", lambda c: words_of(c, 1))
    assert heard.count("True") == 1 and len(rows) == 2
    winner = heard.index("True")
    assert rows[1].who == f"person {winner}"
    for number in set(range(6)) - {winner}:
        agrees = number % 2 == winner % 2
        assert heard[number] == "False" if agrees else f"person {winner}" in heard[number], heard
    watch.work()
    assert len(watch.pages()) == (1 if winner % 2 == 0 else 0)
    for one in others:
        one.close()


def test_a_word_that_comes_while_the_case_is_about_to_be_parked_is_not_lost(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, waits = here(), tasks.effects.Waits

    def meanwhile(*words: Any) -> Exception:
        watch.say()
        return waits(*words)

    monkeypatch.setattr(tasks.effects, "Waits", meanwhile)
    watch.work()
    assert watch.state() == "open"
    watch.work()
    assert watch.pages() == [FIRST]


def test_nobody_speaks_and_it_is_denied_in_time_and_not_before(here: Here, later: Callable[[float], None]) -> None:
    watch = here("resigned", approvals={"page": {"hours": 2}})
    watch.work()
    digest = watch.waits()[0].word.digest
    later(HOUR)
    assert watch.run_out() == []
    later(WEEK)
    assert watch.run_out() == ["nobody spoke in time of page of case 1: it is denied"] and watch.run_out() == []
    with pytest.raises(BadInput, match="timeout denied the page"):
        watch.say(digest=digest)
    watch.work()
    assert (watch.pages(), watch.came()) == ([], [("abstained", "nobody was paged")])


def test_nobody_speaks_and_people_are_told_once_more_and_it_waits_on(
    here: Here, tmp_path: Path, later: Callable[[float], None]
) -> None:
    urls = {kind: f"maildir:{tmp_path / kind}" for kind in ("page", "hand_over")}
    watch = here(effects=urls, approvals={"page": {"hours": 2, "then": "escalate"}})
    watch.work()
    assert watch.pages("hand_over") == []
    later(3 * HOUR)
    assert watch.run_out() == ["nobody spoke in time of page of case 1: people are told once more"]
    watch.work()
    later(WEEK)
    assert watch.run_out() == []
    (told,) = watch.pages("hand_over")
    assert "waiting 1" in told and FIRST not in told
    assert (watch.state(), watch.pages("page"), watch.said()) == ("parked", [], ["asked", "told"])
    assert watch.say()
    watch.work()
    assert (watch.pages("page"), len(watch.pages("hand_over")), watch.looked()) == ([FIRST], 1, 1)


@pytest.mark.parametrize("shadow", [False, True])
def test_a_rehearsal_and_a_shadow_wait_for_nobody(here: Here, shadow: bool) -> None:
    watch = here(dry_run=not shadow)
    if shadow:
        copy = update(cases).values(source="shadow:paging/1")
        watch.ledger.write_now("make it a shadow's", lambda c: c.execute(copy))
    watch.work()
    assert (watch.state(), watch.pages(), watch.waits(), watch.said()) == ("settled", [], [], [])


def test_what_is_permitted_does_not_leave_while_effects_are_switched_off(here: Here) -> None:
    watch = here()
    watch.work()
    watch.ledger.write_now("switch", lambda c: switch_effects(c, "desk", False, "ann"))
    assert watch.say()
    watch.work()
    assert (watch.state(), watch.pages()) == ("parked", [])
    watch.ledger.write_now("switch", lambda c: switch_effects(c, "desk", True, "ann"))
    watch.work()
    assert watch.pages() == [FIRST]


def test_a_kind_that_is_marked_no_more_does_not_let_go_what_waits(here: Here) -> None:
    watch = here()
    watch.work()
    watch.configure(approvals={})
    watch.ledger.write_now("release", lambda c: release(c, 1, "ann"))
    watch.work()
    assert (watch.state(), watch.pages()) == ("parked", [])


def test_a_channel_that_takes_nothing_for_now_costs_no_second_permission(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, send = here(), tasks.effects.channels.send

    def down(*_: Any) -> Any:
        raise NotSent("the pager is down")

    watch.work()
    watch.say()
    monkeypatch.setattr(tasks.effects.channels, "send", down)
    watch.work()
    monkeypatch.setattr(tasks.effects.channels, "send", send)
    watch.work()
    assert watch.pages() == [FIRST] and watch.said() == ["asked", "permitted"]


def test_a_permission_does_not_follow_an_effect_to_another_place(here: Here, tmp_path: Path) -> None:
    watch = here("same")
    watch.work()
    watch.say()
    watch.configure(effects={"page": f"maildir:{tmp_path / 'elsewhere'}"})
    watch.work(paging_anew)
    assert watch.state() == "parked" and watch.pages("elsewhere") == [] == watch.pages()


@pytest.mark.parametrize(
    ("case", "digest", "says"),
    [
        (1, "abc", "at least 12 characters"),
        (1, "%" * 12, "at least 12 characters"),
        (1, "0" * 12, "Nobody was asked about 000000000000 in case 1"),
        (2**40, "0" * 12, "Name a case"),
    ],
)
def test_a_word_on_what_nobody_was_asked_about_names_the_way_out(here: Here, case: int, digest: str, says: str) -> None:
    watch = here()
    watch.work()
    with pytest.raises(BadInput, match=says):
        watch.ledger.write_now("decide", lambda c: decide(c, case, digest, True, "ann"))
    with pytest.raises(BadInput, match="Nobody says it"):
        watch.say(who=" ")


@pytest.mark.parametrize("show", [False, True])
def test_the_form_decides_once_and_its_list_holds_words_only_where_they_may_be_shown(
    here: Here, prefect_server: str, show: bool
) -> None:
    watch = here(approvals={"page": {"show": show}})

    def listed() -> str:
        found = httpx.get(f"{prefect_server}/artifacts/waiting-desk/latest").raise_for_status().json()
        return str(found["data"])

    def fill_in(decision: Literal["permit", "deny"], **more: Any) -> str:
        given = {"case": 1, "digest": digest[:12], "who": "ann", "decision": decision}
        return str(asyncio.run(permit(**given, **more, return_state=True)).message)  # type: ignore[call-overload]

    watch.work()
    digest = watch.waits()[0].word.digest
    agent = Agent.model_validate({"name": "desk", "source": "maildir:/inbox"} | watch.given)
    asyncio.run(flow(validate_parameters=False)(show_waiting)(agent, watch.waits()))
    assert digest[:12] in listed() and (FIRST in listed()) == show
    assert "What is denied is not sent" in fill_in("deny", text="Call Bob.")
    assert "is permitted" in fill_in("permit")
    assert digest[:12] not in listed() and "Nothing of desk waits" in listed()
    assert "said before" in fill_in("permit") and "ann in the UI permitted the page" in fill_in("deny")
    watch.work()
    assert watch.pages() == [FIRST]


def test_a_tick_denies_what_nobody_spoke_of_and_works_its_case_at_once(
    here: Here, tmp_path: Path, later: Callable[[float], None]
) -> None:
    watch = here("resigned", source=f"maildir:{tmp_path / 'inbox'}")
    (tmp_path / "inbox/new").mkdir(parents=True)
    agent = Agent.model_validate({"name": "desk", "source": f"maildir:{tmp_path / 'inbox'}"} | watch.given)
    known = {"catalogue": lambda: {"paging": tmp_path}, "skill_flow": lambda *_: paging, "describe": lambda _: "Page."}
    with patch.multiple(loop, **known):
        asyncio.run(loop.agent_loop(agent, dry_run=False))
        assert watch.state() == "parked"
        later(WEEK)
        asyncio.run(loop.agent_loop(agent, dry_run=False))
        assert watch.came() == [("abstained", "nobody was paged")] and watch.pages() == []
        misspelt = agent.model_copy(update={"approvals": {"pgae": Approval()}})
        with pytest.raises(BadInput, match="'pgae', which is none of the agent's effects"):
            asyncio.run(loop.agent_loop(misspelt, dry_run=False))


def test_what_nobody_would_see_is_shown_to_whoever_permits_it() -> None:
    effect = Effect(kind="page", subject="a\x1b[2K", body="ring\u202eBob\u200b\r\nnow", data={"minutes": 5})
    shown = exactly(effect)
    assert all(one.isprintable() or one == "\n" for one in shown)
    assert "<U+202E>Bob<U+200B><U+000D>\nnow" in shown and '"minutes": 5' in shown and "x" not in shown


def test_a_field_that_a_later_version_adds_makes_no_other_effect_of_one_that_waits() -> None:
    class Later(Effect):
        urgency: str = "normal"

    given = {"kind": "page", "body": "b"}
    assert digest_of("maildir:x", Later.model_validate(given)) == digest_of("maildir:x", Effect.model_validate(given))
    assert digest_of("maildir:y", Effect.model_validate(given)) != digest_of("maildir:x", Effect.model_validate(given))
