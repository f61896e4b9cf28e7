"""What a real mail server got is known from the copies in an archive, whatever was killed, late or refused."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest
from aiosmtpd.smtp import Envelope

from tasks import channels
from tasks.channels.message import message_id
from tasks.errors import BadInput, NotNow, NotSent, Refused
from tests.conftest import PROJECT, free_port
from tests.postoffice import PASSWORD, PostOffice
from tests.test_channels import DESK, answer


@pytest.fixture
def archive(office: PostOffice, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an archive that only this test uses, with its account and the server's in the environment."""
    address = f"archive-{uuid.uuid4().hex[:8]}@example.com"
    monkeypatch.setenv("HOLDFAST_MAIL_CA", office.ca)
    for name, user in (("SMTP", DESK), ("ARCHIVE", address)):
        monkeypatch.setenv(f"HOLDFAST_{name}_USER", user)
        monkeypatch.setenv(f"HOLDFAST_{name}_PASSWORD", PASSWORD)
    yield address
    office.late.clear()
    office.refused.clear()
    office.heard = lambda doorway, envelope: None


def archived(office: PostOffice, archive: str, wait: float = 1.0, folder: str = "INBOX") -> str:
    return f"{office.smtp()}?archive={office.imap(folder)}&archive_to={archive}&wait={wait}"


def reader() -> str:
    return f"ann-{uuid.uuid4().hex[:8]}@example.com"


@pytest.mark.parametrize("how", ["", "tls", "plain"])
def test_a_real_server_gets_a_mail_over_every_way_that_is_allowed(office: PostOffice, archive: str, how: str) -> None:
    to = reader()
    channels.send(office.smtp(how), f"k{how}", answer(to=to), DESK)
    (mail,) = office.mails(to)
    assert mail["Message-ID"] == message_id(f"k{how}")


def test_a_server_that_is_not_who_it_should_be_gets_nothing(
    office: PostOffice, archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = reader()
    monkeypatch.setenv("HOLDFAST_SMTP_PASSWORD", "wrong")
    with pytest.raises(Refused, match="HOLDFAST_SMTP_PASSWORD"):
        channels.send(office.smtp(), "k", answer(to=to), DESK)
    monkeypatch.delenv("HOLDFAST_MAIL_CA")
    for how in ("", "tls"):
        with pytest.raises(NotSent, match="CERTIFICATE_VERIFY_FAILED"):
            channels.send(office.smtp(how), "k", answer(to=to), DESK)
    assert office.mails(to) == []


def test_what_went_out_lies_in_the_archive_too_and_its_reader_does_not_see_that(
    office: PostOffice, archive: str
) -> None:
    url, to = archived(office, archive), reader()
    assert channels.can_find(url)
    sent = channels.send(url, "k", answer(to=to), DESK)
    (mail,), (copy,) = office.mails(to), office.mails(archive)
    assert mail["Message-ID"] == copy["Message-ID"] == sent.reference
    assert archive not in mail.as_string() and copy["To"] == to
    found = channels.find(url, "k")
    assert found is not None and found.found and found.reference == sent.reference
    assert len(office.mails(archive)) == 1, "a probe was sent for what is there"


def test_what_never_left_is_known_as_not_sent_once_a_later_mail_has_arrived(office: PostOffice, archive: str) -> None:
    url = archived(office, archive)
    channels.send(url, "other", answer(to=reader()), DESK)
    assert channels.find(url, "k") is None
    assert [mail["Subject"] for mail in office.mails(archive)] == ["Re: Lamp", "Looking for a mail"]


def test_a_copy_that_lies_in_a_queue_for_a_while_is_waited_for(office: PostOffice, archive: str) -> None:
    url = archived(office, archive, wait=20)
    office.late[archive] = 1.0
    channels.send(url, "k", answer(to=reader()), DESK)
    office.late.clear()  # the probe overtakes it
    assert channels.find(url, "k") is not None


def test_an_archive_that_gets_no_copies_proves_nothing(office: PostOffice, archive: str) -> None:
    url = archived(office, reader(), wait=0.3)  # copies go elsewhere than where they are looked for
    channels.send(url, "k", answer(to=reader()), DESK)
    with pytest.raises(NotNow, match="did not reach"):
        channels.find(url, "k")


def test_an_archive_that_can_not_be_asked_proves_nothing(
    office: PostOffice, archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = f"{office.smtp()}?archive=imap://127.0.0.1:{free_port()}/Sent&archive_to={archive}"
    with pytest.raises(NotNow, match="could not be used"):
        channels.find(gone, "k")
    deaf = f"smtp+plain://127.0.0.1:{free_port()}?archive={office.imap()}&archive_to={archive}"
    with pytest.raises(NotNow, match="could not be used"):
        channels.find(deaf, "k")
    office.refused.add(archive)
    with pytest.raises(BadInput, match="refused the mail"):
        channels.find(archived(office, archive), "k")


def test_nothing_leaves_without_its_copy_and_the_reader_is_not_blamed(office: PostOffice, archive: str) -> None:
    to = reader()
    office.refused.add(archive)
    with pytest.raises(NotSent, match="the copy for"):
        channels.send(archived(office, archive), "k", answer(to=to), DESK)
    office.refused.add(to)
    with pytest.raises(Refused, match="no such mailbox"):
        channels.send(archived(office, archive), "k", answer(to=to), DESK)
    assert office.mails(to) == []


@pytest.mark.parametrize("doorway", ["taken", "delivered"])
def test_a_process_killed_between_the_mail_and_the_servers_yes_has_sent_it_and_that_is_found(
    office: PostOffice, archive: str, doorway: str
) -> None:
    url, to = archived(office, archive, wait=20), reader()
    program = (
        "import sys\nfrom tasks import channels\nfrom tests.test_channels import answer, DESK\n"
        "channels.send(sys.argv[1], 'k', answer(to=sys.argv[2]), DESK)"
    )
    running = subprocess.Popen([sys.executable, "-c", program, url, to], cwd=PROJECT)

    def kill(where: str, envelope: Envelope) -> None:
        if where == doorway and to in envelope.rcpt_tos:
            running.kill()
            running.wait()

    office.heard = kill
    assert running.wait(60) == -signal.SIGKILL
    found = channels.find(url, "k")
    assert found is not None and [mail["Message-ID"] for mail in office.mails(to)] == [found.reference]


def test_a_process_killed_before_the_end_of_the_mail_has_not_sent_it_and_that_is_known(
    office: PostOffice, archive: str
) -> None:
    url, to = archived(office, archive), reader()
    program = (
        "import os, signal, smtplib, sys\nfrom tasks import channels\nfrom tests.test_channels import answer, DESK\n"
        "send = smtplib.SMTP.send\n"
        "def half(server, said):\n"
        "    if isinstance(said, bytes) and said.endswith(b'\\r\\n.\\r\\n'):\n"
        "        send(server, said[:-3])\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    send(server, said)\n"
        "smtplib.SMTP.send = half\n"
        "channels.send(sys.argv[1], 'k', answer(to=sys.argv[2]), DESK)"
    )
    killed = subprocess.run([sys.executable, "-c", program, url, to], cwd=PROJECT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert channels.find(url, "k") is None and office.mails(to) == []


def test_only_a_url_with_an_archive_can_look(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "smtp://mail.example.com?archive=imap://mail.example.com/Sent&archive_to=sent@example.com"
    assert channels.can_find(url) and channels.can_find(f"{url}&wait=300")
    # What an effect was entered with before such URLs were refused.
    assert not channels.can_find("smtp://mail.example.com:25?starttls=0")
    assert not channels.can_find("smtp://mail.example.com")
    with pytest.raises(BadInput, match="HOLDFAST_ARCHIVE_USER"):
        channels.check(url)
    for odd in (
        f"{url}&to=a@b,c@d",
        f"{url}&wait=-1",
        f"{url}&wait=nan",
        f"{url}&wait=soon",
        url.replace("sent@example.com", "Sent <a@b>"),
    ):
        with pytest.raises(BadInput):
            channels.check(odd)
