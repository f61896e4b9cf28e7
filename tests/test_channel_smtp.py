"""What a mail server says decides between sent, not sent and unknown; a password never travels in the clear."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import threading
from collections.abc import Iterator
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tasks import channels
from tasks.channels.message import message_id
from tasks.errors import BadInput, NotSent, Refused
from tests.conftest import free_port
from tests.test_channels import DESK, answer


class Desk:
    """What a mail server says; `says` maps a command to its answer."""

    def __init__(self, **says: str) -> None:
        self.says, self.taken = says, list[Envelope]()

    async def handle_MAIL(self, _: SMTP, session: Session, envelope: Envelope, address: str, options: object) -> str:
        envelope.mail_from = address
        return self.says.get("MAIL", "250 OK")

    async def handle_RCPT(self, _: SMTP, session: Session, envelope: Envelope, address: str, options: object) -> str:
        envelope.rcpt_tos.append(address)
        return self.says.get("RCPT", "250 OK")

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.taken.append(envelope)
        if self.says.get("DATA") == "hang up":
            assert server.transport is not None
            server.transport.abort()
        return self.says.get("DATA", "250 OK")


@contextlib.contextmanager
def server(desk: Desk) -> Iterator[str]:
    running = Controller(desk, hostname="127.0.0.1", port=free_port())
    running.start()
    try:
        yield f"smtp+plain://127.0.0.1:{running.port}"
    finally:
        running.stop()


@contextlib.contextmanager
def scripted(*answers: bytes) -> Iterator[str]:
    """A server that gives these bytes, reads after each but the last, and then hangs up."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError), listening.accept()[0] as connection:
            for one in answers[:-1]:
                connection.sendall(one)
                connection.recv(1_000_000)
            connection.sendall(answers[-1])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"smtp+plain://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        thread.join()
        listening.close()


def test_a_mail_reaches_the_server_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    text = "Grüße\n.\n..dots\nQUIT\n" + "x" * 3000
    with server(desk) as url:
        receipt = channels.send(url, "k", answer(body=text), DESK)
    (taken,) = desk.taken
    assert (taken.mail_from, taken.rcpt_tos) == (DESK, ["ann@example.com"])
    assert isinstance(taken.content, bytes)
    mail = message_from_bytes(taken.content, policy=default)
    assert isinstance(mail, EmailMessage) and mail.get_content().rstrip("\r\n").replace("\r\n", "\n") == text
    assert receipt.reference == message_id("k") == mail["Message-ID"] and receipt.channel == url


def test_what_names_no_address_goes_to_the_people_in_the_url_and_a_reply_does_not() -> None:
    desk = Desk()
    with server(desk) as url:
        for to in ("", "ann@example.com"):
            channels.send(f"{url}?to=people@example.com", "k", answer(to=to), DESK)
    assert [taken.rcpt_tos for taken in desk.taken] == [["people@example.com"], ["ann@example.com"]]
    assert isinstance(desk.taken[0].content, bytes) and b"To: people@example.com" in desk.taken[0].content


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
def test_a_server_that_says_later_is_asked_later_and_one_that_says_never_is_not(command: str) -> None:
    with server(Desk(**{command: "451 try later"})) as url, pytest.raises(NotSent, match="451 try later"):
        channels.send(url, "k", answer(), DESK)
    with server(Desk(**{command: "554 go away"})) as url, pytest.raises(Refused, match="554 go away"):
        channels.send(url, "k", answer(), DESK)


@pytest.mark.parametrize("greeting", [b"421 busy\r\n", b"", b"220 hello\r\n", b"what\r\n"])
def test_a_server_that_gives_up_before_the_mail_did_not_get_it(greeting: bytes) -> None:
    with scripted(greeting) as url, pytest.raises(NotSent):
        channels.send(url, "k", answer(), DESK)


def test_a_server_that_is_not_there_did_not_get_it() -> None:
    with pytest.raises(NotSent, match="could not be used"):
        channels.send(f"smtp+plain://127.0.0.1:{free_port()}", "k", answer(), DESK)


def test_a_connection_lost_after_the_mail_is_neither_sent_nor_not_sent() -> None:
    desk = Desk(DATA="hang up")
    with server(desk) as url, pytest.raises((smtplib.SMTPException, OSError)):
        channels.send(url, "k", answer(), DESK)
    assert len(desk.taken) == 1


BEFORE_MAIL = (b"220 hello\r\n", b"250 hello\r\n", b"250 OK\r\n", b"250 OK\r\n", b"354 go on\r\n")


@pytest.mark.parametrize("last", [b"", b"25", b"what\r\n", b"354 more\r\n", b"250 " + b"x" * 9000 + b"\r\n"])
def test_an_answer_that_says_neither_yes_nor_no_is_unknown(last: bytes) -> None:
    with scripted(*BEFORE_MAIL, last) as url, pytest.raises((smtplib.SMTPException, OSError)):
        channels.send(url, "k", answer(), DESK)


def test_a_server_that_is_silent_after_the_mail_is_unknown_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.channels.smtp.TIMEOUT", 0.2)
    with scripted(*BEFORE_MAIL, b"", b"") as url, pytest.raises((smtplib.SMTPException, OSError)):
        channels.send(url, "k", answer(), DESK)


def test_a_mail_that_was_taken_stays_taken_when_the_goodbye_fails() -> None:
    with scripted(*BEFORE_MAIL, b"250 taken\r\n") as url:
        assert channels.send(url, "k", answer(), DESK).reference == message_id("k")


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    for url in ("smtp://ann:secret@mail.example.com:587", "smtp://:secret@mail.example.com", "smtp://secret@x:y"):
        with pytest.raises(BadInput, match="HOLDFAST_SMTP_PASSWORD") as why:
            channels.check(url)
        assert "secret" not in str(why.value)


@pytest.mark.parametrize(
    "url",
    "smtp:|smtp://|smtp://h:99999|smtp://h/box|smtp://h?starttls=0|smtp://h?tls=1|smtp://[|smtp+ssl://h|smtp://h?archive="
    "imap://h/Sent|smtp://h?archive_to=a@example.com|smtp://h?wait=5|smtp://h#x".split("|"),
)
def test_a_wrong_smtp_url_is_known_before_any_work(url: str) -> None:
    with pytest.raises(BadInput, match="Write smtp://"):
        channels.check(url)


def test_a_mail_or_a_password_never_travels_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("mail.example.com", "10.0.0.7", "127.0.0.1.example.com"):
        with pytest.raises(BadInput, match="in the clear"):
            channels.check(f"smtp+plain://{host}:25")
    monkeypatch.setenv("HOLDFAST_SMTP_USER", "desk")
    with pytest.raises(BadInput, match="Set both"):
        channels.check("smtp+plain://127.0.0.1:25")
    monkeypatch.setenv("HOLDFAST_SMTP_PASSWORD", "secret")
    for url in ("smtp+plain://127.0.0.1:25", "smtp+plain://[::1]", "smtp://mail.example.com:587?starttls=1"):
        channels.check(url)


def test_a_server_without_encryption_gets_nothing_unless_that_was_asked_for() -> None:
    desk = Desk()
    with server(desk) as url:
        for how in ("smtp", "smtp+tls"):
            with pytest.raises(NotSent):
                channels.send(url.replace("smtp+plain", how), "k", answer(), DESK)
    assert not desk.taken
