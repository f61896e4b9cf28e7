"""What becomes a case of a tracker's issues, what is left alone, and what the tracker shows as settled."""

from __future__ import annotations

import pytest

from tasks import channels, sources
from tasks.effects import reply_to
from tasks.errors import BadInput, NotSent
from tasks.records import Arrival, Note, Unreadable
from tests.between import Between
from tests.conftest import free_port
from tests.issues import ANN, DESK, answers, case_of, cases_of, desk, key_of, opened, passing, read, shared
from tests.tracker import AGENT, Tracker, tracker

__all__ = ["desk", "passing", "shared"]


# What becomes a case


def test_a_customers_last_word_is_a_case_until_somebody_answered(desk: Tracker) -> None:
    issue = opened(desk, text="It came broken.", message_id="<chosen@example.com>", name="Ann Lee")
    case = case_of(desk.url, issue)
    assert (case.sender, case.subject, case.text, case.thread) == (ANN, "Lamp", "It came broken.", f"issue{issue}")
    desk.do(by=ANN, issue=issue, text="It is blue.")
    later = case_of(desk.url, issue)
    assert later.key != case.key and later.text == "It came broken.\n\nIt is blue.", "what nobody answered is lost"
    for who in (AGENT, "colleague@fennmoor.example"):
        desk.do(by=who, issue=issue, text="We look after it.")
        assert not cases_of(desk.url, issue)
    desk.do(by=ANN, issue=issue, text="Thank you.")
    assert case_of(desk.url, issue).text == "Thank you."
    desk.do(by=ANN, issue=issue, change={"status": "8"})
    assert not cases_of(desk.url, issue)


def test_what_a_customer_writes_while_an_answer_is_made_is_not_taken_for_answered(desk: Tracker) -> None:
    issue = opened(desk)
    case = case_of(desk.url, issue)
    desk.do(by=ANN, issue=issue, text="And my chair?")
    for text in ("Your lamp is on its way.", ""):
        if text:
            effect = reply_to(case, text)
            channels.send(desk.url, key_of(case, effect), effect, DESK)
        later = case_of(desk.url, issue)
        assert later.text == "And my chair?" and later.key != case.key
    effect = reply_to(later, "So is your chair.")
    channels.send(desk.url, key_of(later, effect), effect, DESK)
    assert not cases_of(desk.url, issue)


def test_an_issue_that_the_agent_opened_itself_is_no_case(desk: Tracker) -> None:
    issue = opened(desk, who=AGENT)
    assert not cases_of(desk.url, issue)


def test_all_pages_are_read_and_what_was_recorded_is_not_read_again(
    desk: Tracker, passing: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.sources.roundup.PAGE", 2)
    made = {issue for issue, _ in desk.do_all([{"by": ANN, "title": f"Q{n}", "text": "Hello"} for n in range(5)])}
    assert sources.look(passing.url) == "at least 2 issue(s) that may wait"
    first = [one for one in read(passing.url) if isinstance(one, Arrival)]
    assert made <= {one.thread.removeprefix("issue") for one in first}
    assert len({one.key for one in first}) == len(first)
    passing.seen.clear()
    known = {one.marker for one in first}
    assert not [one for one in read(passing.url, lambda names: known & set(names)) if isinstance(one, Arrival)]
    assert not [
        one for one in passing.seen if one.split("/msg/")[-1].split("?")[0] in {k.split("msg")[1] for k in known}
    ]


def test_a_later_poll_asks_only_for_what_changed_since_and_misses_nothing(desk: Tracker, passing: Between) -> None:
    opened(desk)
    *_, note = read(passing.url)
    assert isinstance(note, Note), "the note must come after the arrivals that it stands for"
    issue = opened(desk, text="Later")
    passing.seen.clear()
    found = read(passing.url, notes={note.name: note.value})
    assert f"issue{issue}" in {one.thread for one in found if isinstance(one, Arrival)}
    assert "activity=" in next(one for one in passing.seen if "/issue" in one)


def test_a_message_that_can_not_be_read_does_not_hold_the_others_and_is_tried_again(
    desk: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.sources.roundup.LIMIT", 60_000)
    long, good = opened(desk, text="log line\n" * 9000), opened(desk, text="Hello")
    found = read(desk.url)
    assert f"issue{good}" in {one.thread for one in found if isinstance(one, Arrival)}
    (odd,) = [one for one in found if isinstance(one, Unreadable)]
    assert odd.marker.startswith(f"issue{long}/") and "too long" in odd.why and "log line" not in odd.why
    assert not [one for one in found if isinstance(one, Note)], "the next poll would begin behind it"
    desk.do(by=ANN, issue=long, change={"status": "8"})


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\x07\u202e\nBcc: thief@example.net\n" + "x" * 300_000


def test_hostile_text_becomes_a_bounded_case_and_changes_nothing_else(desk: Tracker) -> None:
    issue = opened(desk, who="eve", address="eve", text=HOSTILE, title="<b>\nBcc: x" + "y" * 900)
    case = case_of(desk.url, issue)
    assert len(case.text) == 200_000 and case.attributes["truncated"] and "\x07" not in case.text
    assert "\n" not in case.subject and len(case.subject) <= 300
    assert case.sender == "", "an answer would go to nobody knows whom"


def test_a_message_id_that_a_customer_chose_steers_no_answer_into_another_issue(desk: Tracker) -> None:
    victim = opened(desk, who="victim@example.com")
    theirs = str(case_of(desk.url, victim).attributes["message_id"])
    issue = opened(desk, message_id=theirs)
    case = case_of(desk.url, issue)
    effect = reply_to(case, "Your secret is 42.")
    channels.send(desk.url, key_of(case, effect), effect, DESK)
    assert answers(desk, issue) and not answers(desk, victim)


def test_who_may_not_see_addresses_is_told_so_before_anybody_is_left_without_an_answer(desk: Tracker) -> None:
    opened(desk)
    with pytest.MonkeyPatch.context() as patch:
        desk.do(by="blind", password="x-password", roles="User")
        patch.setenv("HOLDFAST_ROUNDUP_USER", "blind")
        patch.setenv("HOLDFAST_ROUNDUP_PASSWORD", "x-password")
        with pytest.raises(BadInput, match=r"user\.address"):
            read(desk.url)


def test_a_tracker_that_is_not_there_or_lets_nobody_in_says_what_to_do(
    desk: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in (read, sources.look):  # at a tick, and by `doctor`
        with pytest.raises(BadInput, match="can not be read now"):
            call(f"roundup://127.0.0.1:{free_port()}/desk")
        with pytest.raises(BadInput, match="options that the tracker knows"):
            call(f"{desk.url}?status=no-such-status")
    monkeypatch.delenv("HOLDFAST_ROUNDUP_PASSWORD")
    for call in (read, sources.look, channels.check):
        with pytest.raises(BadInput, match="HOLDFAST_ROUNDUP_PASSWORD"):
            call(desk.url)


@pytest.mark.parametrize(
    "url",
    "roundup:|roundup://|roundup://tracker.example.com/desk|roundup://127.0.0.1:99999/x"
    "|roundup://127.0.0.1/desk?color=red|roundup://127.0.0.1/desk#x"
    "|roundup://127.0.0.1/a b".split("|"),
)
def test_a_url_that_names_no_tracker_is_known_before_any_work(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_ROUNDUP_USER", "desk")
    monkeypatch.setenv("HOLDFAST_ROUNDUP_PASSWORD", "secret")
    for call in (sources.canonical, channels.check):
        with pytest.raises(BadInput, match="roundup"):
            call(url)


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    for call in (sources.canonical, channels.check):
        with pytest.raises(BadInput, match="HOLDFAST_ROUNDUP_USER") as why:
            call("roundup+https://ann:secret@tracker.example.com/desk")
        assert "secret" not in str(why.value)


# What is settled


def test_a_settled_issue_gets_its_mark_once_and_not_while_its_customer_waits_again(
    desk: Tracker, passing: Between
) -> None:
    desk.keyword("handled")
    url = f"{passing.url}?mark=handled"
    issue, other = opened(desk), opened(desk)
    markers = [case_of(url, one).key for one in (issue, other)]
    desk.do(by=ANN, issue=other, text="One more thing.")
    once = iter([True])

    def before(method: str, path: str) -> None:
        if method == "PATCH" and next(once, False):
            desk.do(by="bob", issue=issue, text="I looked.")

    passing.before = before
    for _ in range(2):
        sources.finish(url, [*markers, "issue999999/msg1", "what"])
    assert desk.ticket(issue).keywords == ["handled"] and desk.ticket(other).keywords == []
    assert [one["content"] for one in desk.ticket(issue).messages][-1] == "I looked."


def test_a_mark_that_the_tracker_does_not_have_says_so(desk: Tracker) -> None:
    for call in (lambda url: sources.finish(url, ["issue1/msg1"]), sources.look):
        with pytest.raises(BadInput, match="no keyword 'none'"):
            call(f"{desk.url}?mark=none")


def test_a_tracker_that_wants_a_rest_gets_it_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with tracker(web={"api_calls_per_interval": "6", "api_interval_in_sec": "3600"}) as slow:
        for name, value in slow.account.items():
            monkeypatch.setenv(name, value)
        issue = opened(slow)
        case = case_of(slow.url, issue)
        effect = reply_to(case, "Sorry.")
        with pytest.raises(NotSent, match="429"):
            channels.send(slow.url, key_of(case, effect), effect, DESK)
        with pytest.raises(BadInput, match="429"):
            read(slow.url)
        assert answers(slow, issue) == []
