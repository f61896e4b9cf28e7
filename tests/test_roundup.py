"""A ticket gets one answer whatever is killed, lost or changed meanwhile, counted in the tracker and its mail."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest

from tasks import channels, sources
from tasks.channels.message import digest
from tasks.effects import effect_key, reply_to
from tasks.errors import BadInput, NotSent, Refused
from tasks.records import Arrival, Case, Effect, Note, Unreadable
from tasks.sources import Found, Known
from tests.between import Between, between
from tests.conftest import free_port
from tests.tracker import AGENT, Tracker, tracker

DESK = "desk@fennmoor.example"
ANN = "ann@example.com"


def nothing(_: Sequence[str]) -> set[str]:
    return set()


@pytest.fixture(scope="module")
def shared() -> Iterator[Tracker]:
    with tracker() as one:
        yield one


@pytest.fixture
def desk(shared: Tracker, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    """The module's tracker, in which each test opens issues of its own."""
    for name, value in shared.account.items():
        monkeypatch.setenv(name, value)
    return shared


@pytest.fixture
def passing(desk: Tracker) -> Iterator[Between]:
    with between(desk.root) as one:
        yield one


def read(url: str, seen: Any = nothing, notes: dict[str, Any] | None = None) -> list[Found]:
    return list(sources.poll(url, Known(seen, lambda prefix: notes or {})))


def cases_of(url: str, issue: str) -> list[Arrival]:
    """What a poll brings of one issue, without reading those of other tests."""
    found = read(url, lambda names: {one for one in names if not one.startswith(f"issue{issue}/")})
    return [one for one in found if isinstance(one, Arrival)]


def case_of(url: str, issue: str) -> Case:
    (one,) = cases_of(url, issue)
    given = one.model_dump(exclude={"marker"})
    return Case(id=1, agent="desk", source=sources.canonical(url), **given)


def opened(desk: Tracker, who: str = ANN, text: str = "Where is my lamp?", **more: Any) -> str:
    return desk.do(by=who, title=more.pop("title", "Lamp"), text=text, **more)[0]


def answers(desk: Tracker, issue: str) -> list[str]:
    return [one["content"] for one in desk.ticket(issue).messages if one["author"]["username"] == AGENT]


def key_of(case: Case, effect: Effect) -> str:
    return effect_key(case, effect)


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
    with pytest.raises(BadInput, match="can not be read now"):
        read(f"roundup://127.0.0.1:{free_port()}/desk")
    with pytest.raises(BadInput, match="options that the tracker knows"):
        read(f"{desk.url}?status=no-such-status")
    monkeypatch.delenv("HOLDFAST_ROUNDUP_PASSWORD")
    for call in (read, channels.check):
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


# What goes out


def test_an_answer_is_linked_once_and_found_and_mailed_to_the_customer_once(desk: Tracker) -> None:
    who = "once@example.com"
    issue = opened(desk, who=who)
    case = case_of(desk.url, issue)
    effect = reply_to(case, "On its way.\n<b>Bold</b> ünïcödé")
    key = key_of(case, effect)
    assert channels.find(desk.url, key) is None
    first, second = (channels.send(desk.url, key, effect, DESK) for _ in range(2))
    assert first.reference == second.reference == digest(key)[:32]
    assert answers(desk, issue) == ["On its way.\n<b>Bold</b> ünïcödé"]
    found = channels.find(desk.url, key)
    assert found is not None and found.found and desk.mails()[who] == 1 and desk.made().count(digest(key)[:32]) == 1
    page = desk.page(f"issue{issue}")
    assert "&lt;b&gt;Bold" in page and "<b>Bold" not in page


def test_a_hand_over_assigns_and_tells_the_person_and_not_the_customer(desk: Tracker) -> None:
    who, url = "handed@example.com", f"{desk.url}?assign=bob&status=in-progress"
    desk.do(by="bob", address="bob@fennmoor.example")
    issue = opened(desk, who=who)
    case = case_of(desk.url, issue)
    effect = Effect(
        kind="hand_over", subject="x", body="Best guess: lamp", in_reply_to=str(case.attributes["message_id"])
    )
    for _ in range(2):
        channels.send(url, key_of(case, effect), effect, DESK)
    ticket = desk.ticket(issue)
    assert (ticket.assigned, ticket.status) == ("bob", "in-progress") and len(answers(desk, issue)) == 1
    assert desk.mails()["bob@fennmoor.example"] == 1 and desk.mails()[who] == 0


def test_a_hand_over_takes_no_issue_from_who_has_it(desk: Tracker) -> None:
    issue = opened(desk)
    case = case_of(desk.url, issue)
    desk.do(by="carol", issue=issue, change={"assignedto": desk.person("carol")})
    effect = Effect(kind="hand_over", body="x", in_reply_to=str(case.attributes["message_id"]))
    channels.send(f"{desk.url}?assign=bob", key_of(case, effect), effect, DESK)
    assert desk.ticket(issue).assigned == "carol"


def test_an_answer_to_something_else_than_this_tracker_is_refused(desk: Tracker) -> None:
    issue = opened(desk)
    for parent in ("", "<1@example.com>", f"<issue{issue}.msg1@0000000000000000.invalid>", f"issue{issue}"):
        effect = Effect(kind="reply", to=ANN, body="x", in_reply_to=parent)
        with pytest.raises(Refused, match="answers nothing"):
            channels.send(desk.url, "k", effect, DESK)
    assert digest("k")[:32] not in desk.made()


def test_an_issue_that_is_gone_is_refused_before_anything_is_made(desk: Tracker) -> None:
    case = case_of(desk.url, opened(desk))
    gone = str(case.attributes["message_id"]).replace("issue", "issue9999")
    effect = Effect(kind="reply", to=ANN, body="x", in_reply_to=gone)
    with pytest.raises(Refused, match="404"):
        channels.send(desk.url, "gone", effect, DESK)
    assert digest("gone")[:32] not in desk.made()


# At the same time


def test_a_change_by_somebody_else_in_the_middle_is_kept_and_the_answer_too(desk: Tracker, passing: Between) -> None:
    issue = opened(desk)
    case = case_of(passing.url, issue)
    changes = iter(["urgent", "critical"])

    def before(method: str, path: str) -> None:
        if method == "PATCH" and (priority := next(changes, "")):
            desk.do(by="bob", issue=issue, text=f"It is {priority}.")

    passing.before = before
    effect = reply_to(case, "Sorry.")
    channels.send(passing.url, key_of(case, effect), effect, DESK)
    said = [one["content"] for one in desk.ticket(issue).messages]
    assert said == ["Where is my lamp?", "Sorry.", "It is urgent.", "It is critical."]
    assert sum(one.startswith("PATCH") for one in passing.seen) == 3


def test_an_issue_that_is_changed_all_the_time_is_left_for_later_and_then_gets_the_same_message(
    desk: Tracker, passing: Between
) -> None:
    issue = opened(desk)
    case = case_of(passing.url, issue)

    def before(method: str, path: str) -> None:
        if method == "PATCH":
            desk.do(by="bob", issue=issue, text="And another thing.")

    passing.before = before
    effect = reply_to(case, "Sorry.")
    key = key_of(case, effect)
    with pytest.raises(NotSent, match="all the time"):
        channels.send(passing.url, key, effect, DESK)
    assert channels.find(passing.url, key) is None and not answers(desk, issue)
    passing.before = lambda method, path: None
    channels.send(passing.url, key, effect, DESK)
    assert answers(desk, issue) == ["Sorry."] and desk.made().count(digest(key)[:32]) == 1


def test_two_that_answer_at_once_make_one_answer(desk: Tracker, passing: Between) -> None:
    who = "two@example.com"
    issue = opened(desk, who=who)
    case = case_of(passing.url, issue)
    effect = reply_to(case, "Sorry.")
    both = threading.Barrier(2)

    def before(method: str, path: str) -> None:
        if method == "PATCH" and not both.broken:
            both.wait(30)  # each has read the issue and made a message of its own by now
            both.abort()

    passing.before = before
    sending = [
        threading.Thread(target=channels.send, args=(passing.url, key_of(case, effect), effect, DESK)) for _ in "ab"
    ]
    for one in sending:
        one.start()
    for one in sending:
        one.join()
    assert answers(desk, issue) == ["Sorry."] and desk.mails()[who] == 1


@pytest.mark.parametrize("lost", ["request", "answer"])
@pytest.mark.parametrize("what", ["GET", "POST", "PATCH"])
def test_a_lost_request_or_answer_makes_no_second_answer(desk: Tracker, passing: Between, what: str, lost: str) -> None:
    who = f"lost-{lost}-{what}@example.com".lower()
    issue = opened(desk, who=who)
    case = case_of(passing.url, issue)
    effect = reply_to(case, "Sorry.")
    key = key_of(case, effect)
    once = iter([True])

    def cut(method: str, path: str) -> bool:
        return method == what and not path.endswith("@poe") and next(once, False)

    setattr(passing, "before" if lost == "request" else "after", cut)
    for _ in range(2):
        try:
            channels.send(passing.url, key, effect, DESK)
        except NotSent:
            continue
    assert answers(desk, issue) == ["Sorry."] and desk.mails()[who] == 1
    assert desk.made().count(digest(key)[:32]) == 1


def test_a_tracker_that_dies_before_it_is_asked_to_link_has_sent_nothing_and_after_it_nobody_can_tell(
    desk: Tracker, passing: Between
) -> None:
    issue = opened(desk)
    case = case_of(passing.url, issue)
    effect = reply_to(case, "Sorry.")
    key = key_of(case, effect)
    passing.before = lambda method, path: method != "PATCH"
    with pytest.raises(NotSent):
        channels.send(passing.url, key, effect, DESK)
    passing.before = lambda method, path: None
    passing.after = lambda method, path: answers(desk, issue) != []
    with pytest.raises(httpx.HTTPError):
        channels.send(passing.url, key, effect, DESK)
    passing.after = lambda method, path: None
    assert channels.find(passing.url, key) is not None and answers(desk, issue) == ["Sorry."]


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
    with pytest.raises(BadInput, match="no keyword 'none'"):
        sources.finish(f"{desk.url}?mark=none", ["issue1/msg1"])


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
