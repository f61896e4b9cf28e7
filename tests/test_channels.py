"""A mail leaves once under its key, is found again, and carries nothing a customer could smuggle into its head."""

from __future__ import annotations

import os
import subprocess
import sys
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import channels
from tasks.channels.message import compose, message_id
from tasks.errors import BadInput, NotSent
from tasks.records import Effect
from tests.conftest import PROJECT

DESK = "desk@example.com"
HEADERS = "From To Subject Date Message-ID In-Reply-To References Auto-Submitted X-Holdfast-Key MIME-Version".split()
HEADERS += ["Content-Type", "Content-Transfer-Encoding"]
ODD_ADDRESSES = (
    "ann@example.com, thief@example.net|ann@example.com\r\nBcc: thief@example.net|Ann <ann@example.com>|ann@a..example"
    "|ann@example.com>|ann|@example.com|ann@|ann@example.com@example.net|team: ann@example.com;|anné@example.com"
).split("|")


def answer(**settings: object) -> Effect:
    return Effect(**{"kind": "reply", "to": "ann@example.com", "subject": "Re: Lamp", "body": "Hello", **settings})  # type: ignore[arg-type]


def read(mail: EmailMessage) -> EmailMessage:
    found = message_from_bytes(mail.as_bytes(), policy=default)
    assert isinstance(found, EmailMessage)
    return found


def delivered(folder: Path) -> list[Path]:
    return [path for part in ("new", "cur") for path in (folder / part).glob("*")]


# The mail itself


@given(st.text(), st.text(), st.text(), st.lists(st.text(), max_size=3), st.text())
def test_no_text_whatever_becomes_a_header_or_stops_a_mail(
    subject: str, body: str, parent: str, references: list[str], key: str
) -> None:
    effect = answer(subject=subject, body=body, in_reply_to=parent, references=tuple(references))
    found = read(compose(key, effect, DESK))
    assert set(found.keys()) <= set(HEADERS) and len(found.keys()) == len(set(found.keys()))
    assert found["To"] == "ann@example.com" and found["From"] == DESK
    assert not found.defects


@pytest.mark.parametrize("break_", ["\r\n", "\n", "\r", "\x00", "\x0b", "\x0c", "\x85", "\u2028", "\r\n\r\n"])
def test_a_line_break_from_a_customer_does_not_become_a_header(break_: str) -> None:
    evil = f"Lamp{break_}Bcc: thief@example.net"
    bad_id = f"<a@example.com>{break_}Bcc: thief@example.net"
    found = read(compose("k", answer(subject=evil, in_reply_to=bad_id, references=(bad_id, "<b@example.com>")), DESK))
    assert "Bcc" not in found and "In-Reply-To" not in found
    assert found["References"] == "<b@example.com>"


@pytest.mark.parametrize("to", [*ODD_ADDRESSES, "a" * 65 + "@example.com", "ann@" + "a.example" * 40])
def test_what_is_not_exactly_one_address_gets_no_mail(tmp_path: Path, to: str) -> None:
    with pytest.raises(BadInput, match="not one mail address"):
        channels.send(f"maildir:{tmp_path}", "k", answer(to=to), DESK)
    assert not delivered(tmp_path)


def test_long_message_ids_are_not_encoded_so_that_the_conversation_stays_one() -> None:
    ids = tuple(f"<{number}{'x' * 200}@mail.example.com>" for number in range(40))
    found = read(compose("k", answer(in_reply_to=ids[-1], references=ids), DESK))
    assert found["In-Reply-To"] == ids[-1]
    assert str(found["References"]).split() == [ids[0], *ids[-19:]], "the root of the thread was lost"


def test_an_answer_says_that_a_program_wrote_it_so_that_robots_do_not_answer_each_other() -> None:
    assert read(compose("k", answer(), DESK))["Auto-Submitted"] == "auto-replied"


def test_a_mail_has_the_same_id_in_every_run_and_another_for_another_key() -> None:
    assert message_id("k") == message_id("k") == str(compose("k", answer(), DESK)["Message-ID"])
    assert message_id("k") != message_id("k#1")
    assert compose("k", answer(), DESK)["Message-ID"] == compose("k", answer(), "other@example.org")["Message-ID"]


def test_an_effect_without_an_address_goes_to_the_agents_own() -> None:
    assert read(compose("k", answer(kind="hand_over", to=""), DESK))["To"] == DESK


def test_letters_of_all_languages_arrive_as_they_were_written() -> None:
    text = "Zażółć gęślą jaźń\n日本語 مرحبا Ελληνικά 🌱\n.\nFrom here on\n" + "long " * 300
    found = read(compose("k", answer(subject="Żółw 日本 مرحبا", body=text), DESK))
    assert found.get_content().replace("\r\n", "\n") == f"{text}\n" and found["Subject"] == "Żółw 日本 مرحبا"
    assert compose("k", answer(body=text), DESK).as_bytes().isascii()


# Which channel


def test_an_unknown_scheme_names_those_that_exist_and_never_shows_a_password() -> None:
    for call in (lambda url: channels.check(url), lambda url: channels.send(url, "k", answer(), DESK)):
        with pytest.raises(BadInput, match=r"Use one of: .*maildir, .*smtp") as why:
            call("pigeon://ann:secret@loft")
        assert "secret" not in str(why.value)


def test_only_a_channel_that_can_look_says_so() -> None:
    assert channels.can_find("maildir:/tmp/x") and not channels.can_find("smtp://localhost:25")


# Maildir


def test_a_second_delivery_under_the_same_key_makes_no_second_mail(tmp_path: Path) -> None:
    url = f"maildir:{tmp_path}"
    first, second = channels.send(url, "k", answer(), DESK), channels.send(url, "k", answer(body="Other"), DESK)
    assert first.reference == second.reference and len(delivered(tmp_path)) == 1
    assert not list((tmp_path / "tmp").iterdir())
    (one,) = delivered(tmp_path)
    assert b"\r" not in one.read_bytes()
    one.rename(tmp_path / "cur" / f"{one.name}:2,S")
    channels.send(url, "k", answer(), DESK)
    assert len(delivered(tmp_path)) == 1, "a mail that was read since is sent again"
    channels.send(url, "other", answer(), DESK)
    assert len(delivered(tmp_path)) == 2


def test_processes_that_deliver_at_once_make_one_mail(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom tasks import channels\nfrom tasks.records import Effect\n"
        "effect = Effect(kind='reply', to='ann@example.com', body='x')\n"
        "print('ready', flush=True)\nsys.stdin.read(1)\n"
        "for number in range(50): channels.send(sys.argv[1], f'k{number}', effect, 'desk@example.com')"
    )
    command = [sys.executable, "-c", program, f"maildir:{tmp_path}"]
    both = [
        subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for one in both:
        assert one.stdout is not None and one.stdout.readline() == "ready\n"
    for one in both:
        assert one.stdin is not None
        one.stdin.write("g")
        one.stdin.flush()
    assert [one.communicate()[1] or one.returncode for one in both] == [0, 0]
    assert len(delivered(tmp_path)) == 50


def test_a_mail_is_found_after_a_mail_program_moved_or_renamed_it(tmp_path: Path) -> None:
    url = f"maildir:{tmp_path}"
    assert channels.find(url, "k") is None
    sent = channels.send(url, "k", answer(), DESK)
    (one,) = delivered(tmp_path)
    for place in (one, tmp_path / "cur" / f"{one.name}:2,RS", tmp_path / "cur" / "1700000000.M1P2.elsewhere:2,S"):
        (one,) = delivered(tmp_path)
        one.rename(place)
        found = channels.find(url, "k")
        assert found is not None and found.found and found.reference == sent.reference
    assert channels.find(url, "other") is None


def test_an_id_that_is_only_quoted_in_a_mail_does_not_pass_for_a_sent_one(tmp_path: Path) -> None:
    url = f"maildir:{tmp_path}"
    channels.send(url, "other", answer(body=f"Message-ID: {message_id('k')}", in_reply_to=message_id("k")), DESK)
    assert channels.find(url, "k") is None


def test_a_folder_that_can_not_be_looked_into_does_not_pass_for_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("not a folder")
    with pytest.raises(OSError):
        channels.find(f"maildir:{tmp_path}", "k")


def test_a_folder_that_can_not_be_made_is_known_before_any_work_and_nothing_is_sent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    url = f"maildir:{tmp_path}/file/sent"
    with pytest.raises(BadInput, match="writable"):
        channels.check(url)
    with pytest.raises(NotSent):
        channels.send(url, "k", answer(), DESK)
    with pytest.raises(BadInput, match="Write maildir:"):
        channels.check("maildir:")


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_full_disk_before_delivery_is_known_as_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(NotSent, match="No space"):
        channels.send(f"maildir:{tmp_path}", "k", answer(), DESK)
    assert not delivered(tmp_path) and not list((tmp_path / "tmp").iterdir())


def test_the_mail_and_its_folder_are_on_the_disk_before_it_is_called_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, link = os.fsync, os.link

    def watched_fsync(handle: int) -> None:
        done.append("folder" if Path(os.readlink(f"/proc/self/fd/{handle}")).name == "new" else "mail")
        fsync(handle)

    def watched_link(*names: Path) -> None:
        done.append("link")
        link(*names)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "link", watched_link)
    channels.send(f"maildir:{tmp_path}", "k", answer(), DESK)
    assert done == ["mail", "link", "folder"]
