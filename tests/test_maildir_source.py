"""A mail, however broken, becomes one case with one stable key, and nothing in the inbox is touched."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.tickets import deliver, tickets
from tasks.channels.message import compose
from tasks.errors import BadInput
from tasks.records import Arrival, Effect, Unreadable
from tasks.sources import Known, canonical, poll
from tasks.sources.mail import parse
from tasks.sources.maildir import LIMIT

NOTHING = Known(lambda names: set())


def box(folder: Path, **mails: bytes) -> str:
    for part in ("new", "cur", "tmp"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name, raw in mails.items():
        (folder / "new" / name).write_bytes(raw)
    return f"maildir:{folder}"


def read(raw: bytes) -> Arrival:
    return parse(raw, "marker", time.time())


@given(st.binary(max_size=2000))
def test_no_bytes_whatever_stop_the_inbox(raw: bytes) -> None:
    one = read(raw)
    one.model_dump_json().encode()
    assert "\x00" not in one.text


@given(st.text(max_size=200), st.text(max_size=200))
def test_no_header_whatever_stops_the_inbox_or_breaks_a_line(subject: str, sender: str) -> None:
    one = read(f"Subject: {subject}\nFrom: {sender}\n\nhello".encode("utf-8", "replace"))
    assert "\n" not in one.subject and "\n" not in one.sender and " " not in one.sender


@pytest.mark.parametrize(
    "raw",
    [
        b"Content-Type: text/plain; charset=no-such-charset\n\nh\xe9llo",
        b"Subject: =?no-such?q?=E9?=\n\nhello",
        b"Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Transfer-Encoding: base64\n\n!!!notbase64",
        b"Content-Type: text/html\n\n<![bad<p>hello</p>",
        b"From: a@b.example, c@d.example\n\nhello",
    ],
)
def test_a_malformed_mail_still_becomes_a_case(raw: bytes) -> None:
    assert read(raw).key.startswith("sha256:")


@pytest.mark.parametrize(
    "raw",
    [
        b"Subject: =?utf-8?b?A?=\nFrom: =?utf-8?b?A?= <a@b.example>\n\nhello",
        b"Content-Type: message/rfc822\n\n" * 2000 + b"hello",
        b"Date: Fri, 31 Dec 9999 23:59:59 -2359\n\nhello",
    ],
)
@pytest.mark.parametrize("modified", [0.0, 1e20, float(2**62)])
def test_what_the_mail_library_raises_on_still_becomes_a_case(raw: bytes, modified: float) -> None:
    one = parse(raw, "marker", modified)
    assert one.key.startswith("sha256:") and one.arrived.tzinfo is not None


@pytest.mark.parametrize(
    ("header", "sender"),
    [
        ("From: =?utf-8?q?victim=40bank.example?= <a@b.example>", "a@b.example"),
        ("From: =?utf-8?q?victim=40bank.example=2C?= <a@b.example>", "a@b.example"),
        ("From: victim@bank.example <a@b.example>", "a@b.example"),
        ('From: "victim@bank.example, " <a@b.example>', "a@b.example"),
        ("From: Ann Lee <a@b.example>", "a@b.example"),
        ("From: a@b.example (Ann Lee)", "a@b.example"),
        ("From: victim@bank.example, <a@b.example>", ""),
        ("From: victim@bank.example\nFrom: a@b.example", ""),
        ("From: everybody: victim@bank.example, a@b.example;", ""),
        ("From: <a@b.example> victim@bank.example", ""),
        ("From: =?utf-8?q?a=40b.example?=", ""),
    ],
)
def test_an_answer_can_not_be_steered_to_somebody_else(header: str, sender: str) -> None:
    assert read(f"{header}\n\nhello".encode()).sender == sender


def test_a_mail_moved_by_a_mail_program_keeps_its_key_and_marker(tmp_path: Path) -> None:
    url = box(tmp_path, one=b"From: a@example.com\n\nhello")
    first = next(iter(poll(url, NOTHING)))
    (tmp_path / "new" / "one").rename(tmp_path / "cur" / "one:2,S")
    second = next(iter(poll(url, NOTHING)))
    assert isinstance(first, Arrival) and isinstance(second, Arrival)
    assert (first.key, first.marker) == (second.key, second.marker)


def test_a_recorded_mail_is_not_read_again_and_the_inbox_stays_as_it_was(tmp_path: Path) -> None:
    url = box(tmp_path, one=b"\n\nhello", two=b"\n\nworld")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert [one.marker for one in poll(url, Known(lambda names: set(names) & {"one"}))] == ["two"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_second_mail_of_a_conversation_is_a_new_case_in_the_same_thread() -> None:
    first = read(b"Message-ID: <1@x.example>\nFrom: a@example.com\n\nhello")
    second = read(b"Message-ID: <2@x.example>\nReferences: <1@x.example>\nFrom: a@example.com\n\nagain")
    assert first.key != second.key and first.thread == second.thread


def test_a_missing_folder_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="mkdir -p"):
        list(poll(f"maildir:{tmp_path}/none", NOTHING))
    with pytest.raises(BadInput, match="imap, maildir"):
        list(poll("pigeon:///loft", NOTHING))


def test_one_inbox_has_one_name(tmp_path: Path) -> None:
    assert (
        len(
            {
                canonical(f"maildir://{tmp_path}/"),
                canonical(f"maildir:{tmp_path}"),
                canonical(f"maildir:{tmp_path}/x/.."),
            }
        )
        == 1
    )


def test_an_unreadable_file_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    url = box(tmp_path, good=b"\n\nhello")
    (tmp_path / "new" / "folder").mkdir()
    kinds = {type(one) for one in poll(url, NOTHING)}
    assert kinds == {Arrival, Unreadable}


def test_attachments_are_named_and_never_opened() -> None:
    raw = (
        b"Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/plain\n\nsee attached\n"
        b"--x\nContent-Type: text/plain\n"
        b'Content-Disposition: attachment; filename="../../etc/passwd"\n\nsecret\n--x--\n'
    )
    one = read(raw)
    assert one.text == "see attached" and one.attributes["attachments"] == ["../../etc/passwd"]


def test_a_megabyte_mail_and_a_thousand_mails_are_fine(tmp_path: Path) -> None:
    mails = {f"m{number:04}": f"Message-ID: <{number}@x.example>\n\nhello".encode() for number in range(1000)}
    url = box(tmp_path, big=b"From: a@example.com\n\n" + b"log line\n" * 120_000, **mails)
    found = list(poll(url, NOTHING))
    assert len(found) == 1001
    assert [one.attributes["truncated"] for one in found if isinstance(one, Arrival) and one.marker == "big"] == [True]


@pytest.mark.parametrize(
    "header",
    [
        "Auto-Submitted: auto-replied",
        "Auto-Submitted: auto-generated (rejected)",
        "List-Id: <x>",
        "List-Unsubscribe: <mailto:x@example.com>",
        "From: MAILER-DAEMON@x.example",
        "Return-Path: <>",
        "Content-Type: multipart/report; report-type=delivery-status; boundary=x",
        "Precedence: bulk",
        "Precedence: auto_reply",
        "X-Auto-Response-Suppress: DR, OOF, AutoReply",
        "X-Auto-Response-Suppress: All",
        "X-Autoreply: yes",
        "X-Loop: help@example.com",
        "X-Failed-Recipients: ann@example.com",
    ],
)
def test_mail_from_programs_is_known_as_such(header: str) -> None:
    assert read(f"{header}\n\nhello".encode()).attributes["automatic"] is True


@pytest.mark.parametrize(
    "header", ["Auto-Submitted: no", "X-Auto-Response-Suppress: DR, RN", "Return-Path: <a@b.example>"]
)
def test_mail_from_people_is_not_taken_for_a_programs(header: str) -> None:
    assert read(f"From: a@example.com\n{header}\n\nhello".encode()).attributes["automatic"] is False


@pytest.mark.parametrize("kind", ["reply", "hand_over", "probe"])
def test_a_mail_of_our_own_that_comes_back_is_not_answered(kind: str) -> None:
    ours = compose("k", Effect(kind=kind, subject="Lamp", body="hello"), "desk@example.com")
    del ours["Auto-Submitted"]  # as a server on the way may do
    assert read(ours.as_bytes()).attributes["automatic"] is True


def test_a_file_name_that_no_database_takes_does_not_stop_the_inbox(tmp_path: Path) -> None:
    url = box(tmp_path, good=b"\n\nhello")
    Path(os.fsdecode(os.fsencode(tmp_path / "new") + b"/bad\xff")).write_bytes(b"\n\nworld")

    def recorded(names: Sequence[str]) -> set[str]:
        assert "".join(names).encode()
        return set()

    assert sorted(one.marker for one in poll(url, Known(recorded))) == ["bad\\xff", "good"]


def test_a_pipe_or_a_huge_file_among_the_mails_does_not_hold_the_inbox(tmp_path: Path) -> None:
    url = box(tmp_path, good=b"\n\nhello")
    os.mkfifo(tmp_path / "new" / "pipe")
    with (tmp_path / "new" / "huge").open("wb") as handle:
        handle.truncate(LIMIT + 1)
    found = {one.marker: one for one in poll(url, NOTHING)}
    assert isinstance(found["good"], Arrival)
    assert "is not a file" in str(found["pipe"]) and "larger than" in str(found["huge"])


def test_a_file_that_vanishes_meanwhile_is_skipped_and_a_hidden_one_is_no_mail(tmp_path: Path) -> None:
    url = box(tmp_path, **{"1": b"\n\nhello", "2": b"\n\nworld", ".3": b"\n\nhidden"})
    for number in (1, 2):
        os.utime(tmp_path / "new" / str(number), (number, number))
    mails = poll(url, NOTHING)
    assert next(mails).marker == "1"
    (tmp_path / "new" / "2").unlink()
    assert list(mails) == []


def test_mails_come_in_the_order_in_which_they_arrived_and_are_asked_for_in_portions(tmp_path: Path) -> None:
    url = box(tmp_path, **{f"{number:04}": b"\n\nhello" for number in range(1100)})
    for number in range(1100):
        os.utime(tmp_path / "new" / f"{number:04}", (2000 - number, 2000 - number))
    portions: list[int] = []

    def recorded(names: Sequence[str]) -> set[str]:
        portions.append(len(names))
        return set()

    assert [one.marker for one in poll(url, Known(recorded))] == [f"{number:04}" for number in reversed(range(1100))]
    assert portions == [500, 500, 100]


def test_the_demo_inbox_holds_47_mails_each_a_case_of_its_own(tmp_path: Path) -> None:
    assert tickets(3) == tickets(3) != tickets(4)
    deliver(tickets(3), tmp_path)
    found = [one for one in poll(f"maildir:{tmp_path}", NOTHING) if isinstance(one, Arrival)]
    assert len({one.key for one in found}) == len(found) == 47
    assert len({one.thread for one in found}) == len({one.sender for one in found}) == 45
    assert not any("�" in one.subject + one.text + str(one.attributes["from_name"]) for one in found)
    assert [one.arrived for one in found] == sorted(one.arrived for one in found)
