"""A mailbox is worked by one installation at a time, and shows as read only what was settled."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks import sources
from tasks.errors import BadInput, HoldfastError, NotNow
from tasks.mailbox import Entry, Mailbox
from tasks.records import Arrival
from tasks.sources import Known, imap
from tests.conftest import free_port
from tests.mailboxes import Installation, fill, keyed, keys, mail
from tests.postoffice import PASSWORD, PostOffice, post_office, renumber


@pytest.fixture(scope="module", params=["CONDSTORE", "no CONDSTORE"])
def office(request: pytest.FixtureRequest) -> Iterator[PostOffice]:
    with post_office(condstore=request.param == "CONDSTORE") as office:
        yield office


@pytest.fixture
def desk(office: PostOffice, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a mailbox that only this test uses, with its account in the environment."""
    address = f"desk-{uuid.uuid4().hex[:8]}@example.com"
    monkeypatch.setenv("HOLDFAST_MAIL_CA", office.ca)
    monkeypatch.setenv("HOLDFAST_IMAP_USER", address)
    monkeypatch.setenv("HOLDFAST_IMAP_PASSWORD", PASSWORD)
    return address


def test_reading_a_mail_claims_it_and_does_not_mark_it_as_read(office: PostOffice, desk: str) -> None:
    here = Installation(office.imap())
    fill(office, desk, 3)
    found = here.poll()
    assert keys(found) == keyed(1, 2, 3) and found[0].sender == "c1@example.com" and found[0].text == "hello"
    assert list(office.flags(desk).values()) == [{here.claim}] * 3
    assert here.poll() == []


def test_whether_a_mailbox_can_be_read_is_said_without_touching_it(
    office: PostOffice, desk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(office, desk, 3)
    assert sources.look(office.imap()).startswith("3 mail(s)")
    assert list(office.flags(desk).values()) == [set()] * 3
    monkeypatch.setenv("HOLDFAST_IMAP_PASSWORD", "wrong-one")
    with pytest.raises(BadInput, match="does not let the user"):
        sources.look(office.imap())


def test_a_mail_that_was_claimed_before_a_crash_is_taken_again(office: PostOffice, desk: str) -> None:
    here = Installation(office.imap())
    fill(office, desk, 3)
    assert keys(here.poll(killed_after=1)) == keyed(1)
    assert here.claim in office.flags(desk)[2], "the second one was claimed and not recorded"
    assert keys(here.poll()) == keyed(2, 3)


def test_a_kill_before_the_first_poll_is_recorded_leaves_no_claim_that_nobody_knows(
    office: PostOffice, desk: str
) -> None:
    fill(office, desk, 1)
    list(sources.poll(office.imap(), Known(lambda names: set())))
    assert office.flags(desk) == {1: set()}


def test_two_installations_at_once_share_a_mailbox_without_a_double(office: PostOffice, desk: str) -> None:
    both = [Installation(office.imap()), Installation(office.imap())]
    fill(office, desk, 30)
    meet, found = threading.Barrier(2), list[list[Arrival]]([[], []])

    def work(number: int) -> None:
        meet.wait()
        found[number] = both[number].poll()

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    # Without CONDSTORE both may have stepped back from a mail: the next poll of either takes it.
    all_of_them = [*found[0], *found[1], *both[0].poll(), *both[1].poll()]
    assert sorted(keys(all_of_them)) == sorted(keyed(*range(1, 31)))
    assert all(len(flags) == 1 for flags in office.flags(desk).values())


def test_whoever_claims_a_mail_in_the_very_moment_between_look_and_claim_keeps_it(
    office: PostOffice, desk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = Installation(office.imap()), Installation(office.imap())
    fill(office, desk, 1)
    claim: Callable[[Mailbox, Entry, str], None] = Mailbox.mark_unchanged
    others = list[Arrival]()

    def late(box: Mailbox, one: Entry, flag: str) -> None:
        monkeypatch.setattr(Mailbox, "mark_unchanged", claim)
        others.extend(there.poll())
        claim(box, one, flag)

    monkeypatch.setattr(Mailbox, "mark_unchanged", late)
    assert here.poll() == [] and keys(others) == keyed(1)
    assert office.flags(desk) == {1: {there.claim}} and here.poll() == []


def test_a_person_who_marks_a_mail_in_that_moment_does_not_keep_it_from_being_worked(
    office: PostOffice, desk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Installation(office.imap())
    fill(office, desk, 1)
    claim: Callable[[Mailbox, Entry, str], None] = Mailbox.mark_unchanged

    def late(box: Mailbox, one: Entry, flag: str) -> None:
        monkeypatch.setattr(Mailbox, "mark_unchanged", claim)
        with office.opened(desk) as client:
            client.uid("STORE", "1", "+FLAGS", r"(\Seen \Flagged)")
        claim(box, one, flag)

    monkeypatch.setattr(Mailbox, "mark_unchanged", late)
    assert keys(here.poll()) == keyed(1)


def test_what_people_had_read_before_is_theirs_and_what_they_read_later_is_still_worked(
    office: PostOffice, desk: str
) -> None:
    fill(office, desk, 2)
    with office.opened(desk) as client:
        client.uid("STORE", "1", "+FLAGS", r"(\Seen)")
    here = Installation(office.imap())
    with office.opened(desk) as client:
        client.append("INBOX", r"(\Seen)", '"01-Jan-2020 00:00:00 +0000"', mail(3))
    assert keys(here.poll()) == keyed(2, 3)
    renumber(office, desk)
    assert sorted(keys(here.poll())) == keyed(2), "a folder that is numbered anew is known by the times of its mails"


def test_only_what_is_settled_shows_as_read_however_often_that_is_said(office: PostOffice, desk: str) -> None:
    here = Installation(office.imap())
    fill(office, desk, 3)
    first, second, _ = here.poll()
    for _ in range(2):
        sources.finish(office.imap(), [first.marker, second.marker, "999/1", "odd"])
    done = {here.claim, r"\Seen", "$AgentDone"}
    assert office.flags(desk) == {1: done, 2: done, 3: {here.claim}}
    sources.finish(office.imap(), ["999/3"])
    assert office.flags(desk)[3] == {here.claim}
    assert Installation(office.imap()).poll() == [], "a new installation works what was settled by another"


def test_a_mailbox_that_is_numbered_anew_marks_nothing_wrongly_and_brings_the_same_cases(
    office: PostOffice, desk: str
) -> None:
    here = Installation(office.imap())
    fill(office, desk, 2)
    before = here.poll()
    renumber(office, desk)
    sources.finish(office.imap(), [before[0].marker])
    assert all(r"\Seen" not in flags for flags in office.flags(desk).values())
    again = here.poll()
    assert sorted(keys(again)) == sorted(keys(before)) and not {one.marker for one in again} & {
        one.marker for one in before
    }


def test_a_mail_too_large_for_memory_is_named_and_never_fetched(
    office: PostOffice, desk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Installation(office.imap())
    fill(office, desk, 3)
    office.deliver(mail(4) + b"x\r\n" * 1000, [desk])
    monkeypatch.setattr(imap, "LIMIT", 2000)
    fetched, text = list[int](), Mailbox.text

    def watched(box: Mailbox, uid: int, limit: int) -> bytes | None:
        fetched.append(uid)
        return text(box, uid, limit)

    monkeypatch.setattr(Mailbox, "text", watched)
    assert len(here.poll()) == 3 and fetched == [1, 2, 3]
    assert [one.marker.endswith("/4") for one in here.unreadable] == [True]
    assert office.flags(desk)[4] == set()


def test_a_mail_that_goes_while_it_is_read_ends_no_poll(
    office: PostOffice, desk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Installation(office.imap())
    fill(office, desk, 3)
    text = Mailbox.text

    def gone(box: Mailbox, uid: int, limit: int) -> bytes | None:
        if uid == 2:
            with office.opened(desk) as client:
                client.uid("STORE", "2", "+FLAGS", r"(\Deleted)")
                client.expunge()
        return text(box, uid, limit)

    monkeypatch.setattr(Mailbox, "text", gone)
    assert keys(here.poll()) == keyed(1, 3)


def test_a_server_without_keywords_is_worked_and_marks_what_it_can(
    office: PostOffice, desk: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = Installation(office.imap())
    fill(office, desk, 2)
    made = Mailbox.__init__

    def poor(box: Mailbox, *args: object) -> None:
        made(box, *args)  # type: ignore[arg-type]
        box.keeps_keywords = False

    monkeypatch.setattr(Mailbox, "__init__", poor)
    first, _ = here.poll()
    assert "the only installation" in caplog.text
    sources.finish(office.imap(), [first.marker])
    assert office.flags(desk) == {1: {r"\Seen"}, 2: set()}


def test_a_server_without_condstore_says_what_that_means(
    office: PostOffice, desk: str, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    Installation(office.imap()).poll()
    assert ("has no CONDSTORE" in caplog.text) == ("no CONDSTORE" in request.node.name)


def test_a_server_that_is_not_there_is_asked_again(desk: str) -> None:
    with pytest.raises(NotNow, match="could not be used"):
        list(sources.poll(f"imap://127.0.0.1:{free_port()}", Known(lambda names: set())))


def test_every_way_to_a_server_is_encrypted_and_checked_unless_it_is_this_machine(
    office: PostOffice, desk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in (office.imap(), f"imap+starttls://localhost:{office.plain}", f"imap+plain://127.0.0.1:{office.plain}"):
        Installation(url)
    monkeypatch.delenv("HOLDFAST_MAIL_CA")
    for url in (office.imap(), f"imap+starttls://127.0.0.1:{office.plain}"):
        with pytest.raises(NotNow, match="CERTIFICATE_VERIFY_FAILED"):
            Installation(url)
    monkeypatch.setenv("HOLDFAST_MAIL_CA", "/nowhere.pem")
    with pytest.raises(BadInput, match="HOLDFAST_MAIL_CA"):
        Installation(office.imap())


def test_a_wrong_password_or_folder_is_named_and_the_password_is_not(
    office: PostOffice, desk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match="no folder 'Nowhere'"):
        Installation(office.imap("Nowhere"))
    monkeypatch.setenv("HOLDFAST_IMAP_PASSWORD", "wrong-one")
    with pytest.raises(BadInput, match="does not let the user") as why:
        Installation(office.imap())
    assert "wrong-one" not in str(why.value)
    monkeypatch.delenv("HOLDFAST_IMAP_PASSWORD")
    with pytest.raises(BadInput, match="Set both"):
        Installation(office.imap())
    monkeypatch.delenv("HOLDFAST_IMAP_USER")
    with pytest.raises(BadInput, match="HOLDFAST_IMAP_USER"):
        Installation(office.imap())


def test_a_server_that_talks_nonsense_ends_the_poll_with_words(desk: str, tmp_path: Path) -> None:
    from tests.test_channel_smtp import scripted

    with scripted(b"* OK hello\r\n", b"* what\r\n(((\r\n") as url, pytest.raises(HoldfastError):
        list(sources.poll(url.replace("smtp", "imap"), Known(lambda names: set())))
