"""What waits for a person leaves once and as it was permitted, or never; whatever is killed, upgraded or forgotten."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

import tasks.effects
from tasks.errors import BadInput, NotSent
from tasks.ledger.again import redo, release
from tasks.ledger.approvals import decide, digest_of, words_of
from tasks.ledger.database import Ledger
from tasks.ledger.story import story
from tasks.ledger.tables import attempts, cases
from tasks.records import Effect
from tests.paging import FIRST, SECOND, paging_anew
from tests.watching import Here, here, later

__all__ = ["here", "later"]

WEEK = 7 * 86_400.0


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


def test_what_may_be_out_already_is_not_exchanged_for_other_words(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, channels, left = here(), tasks.effects.channels, []
    send = channels.send

    def cut(*words: Any) -> Any:
        left.append(words)
        raise ConnectionError("no answer")

    watch.work()
    watch.say()
    monkeypatch.setattr(channels, "can_find", lambda _: False)
    monkeypatch.setattr(channels, "dedupes", lambda _: True)
    monkeypatch.setattr(channels, "send", cut)
    watch.work()
    monkeypatch.setattr(channels, "send", send)
    watch.ledger.write_now("let it try again", lambda c: c.execute(update(cases).values(not_before=0)))
    watch.work(paging_anew)
    assert (len(left), watch.pages(), watch.said()) == (1, [FIRST], ["asked", "permitted"])


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


def test_a_field_that_a_later_version_adds_makes_no_other_effect_of_one_that_waits() -> None:
    class Later(Effect):
        urgency: str = "normal"

    given = {"kind": "page", "body": "b"}
    assert digest_of("maildir:x", Later.model_validate(given)) == digest_of("maildir:x", Effect.model_validate(given))
    assert digest_of("maildir:y", Effect.model_validate(given)) != digest_of("maildir:x", Effect.model_validate(given))
