"""A ticket gets one answer whatever is lost or changed meanwhile, counted in the tracker and its mail."""

from __future__ import annotations

import threading

import httpx
import pytest

from tasks import channels
from tasks.channels.message import digest
from tasks.effects import reply_to
from tasks.errors import NotSent, Refused
from tasks.records import Effect
from tests.between import Between
from tests.issues import ANN, DESK, answers, case_of, desk, key_of, opened, passing, shared
from tests.tracker import Tracker

__all__ = ["desk", "passing", "shared"]


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
