"""Mail through an SMTP server, where everything up to the end of the mail is certain and what follows may not be."""

from __future__ import annotations

import contextlib
import smtplib
from collections.abc import Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import NamedTuple
from urllib.parse import urlencode

from tasks.channels.archive import ACCOUNTS, Archive, holds
from tasks.channels.message import compose, message_id, one_address, one_line
from tasks.errors import BadInput, NotNow, NotSent, Refused
from tasks.mailbox import read_folder, sign_in
from tasks.records import Effect, Receipt
from tasks.wire import TIMEOUT, Server, account, read_url, trusted

ACCOUNT = "HOLDFAST_SMTP"
WAIT_SECONDS = 60.0  # that a server has for the copy of a mail, unless its URL says otherwise
WAY_OUT = (
    "Write smtp://host:587, or smtp+tls://host:465, and for a way to find what went out add "
    f"?archive=imap://host/FOLDER&archive_to=ADDRESS; {ACCOUNT}_USER and {ACCOUNT}_PASSWORD stand in the environment."
)


class Place(NamedTuple):
    """Where a URL points to."""

    server: Server
    people: str
    """Who gets what names no address; empty for the agent's own."""
    archive: Archive | None

    @property
    def url(self) -> str:
        told = {"to": self.people} if self.people else {}
        if self.archive is not None:
            folder, address, wait = self.archive
            told |= {"archive": folder.url, "archive_to": address, "wait": f"{wait:g}"}
        return self.server.url + (f"?{urlencode(told, safe=':/@')}" if told else "")


def _place(url: str) -> Place:
    server, path, options = read_url(url, "smtp", WAY_OUT)
    starttls = options.pop("starttls", "1")  # what a URL had to say before it was the rule
    people, folder, address, wait = (options.pop(one, "") for one in ("to", "archive", "archive_to", "wait"))
    if options or path or starttls != "1":
        raise BadInput(f"The smtp: URL for {server.host!r} names no server, or more than a server. {WAY_OUT}")
    if people:
        one_address(people)
    if not folder and not address and not wait:
        return Place(server, people, None)
    if not folder or not address:
        raise BadInput(
            f"The smtp: URL for {server.host!r} needs both, archive= where copies lie and archive_to= the address "
            f"that brings them there. {WAY_OUT}"
        )
    try:
        seconds = float(wait or WAIT_SECONDS)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 3600:
        raise BadInput(
            f"The smtp: URL for {server.host!r} has wait={wait[:20]!r}, which is no time up to 3600 seconds."
        )
    return Place(server, people, Archive(read_folder(folder), one_address(address), seconds))


def check(url: str) -> None:
    """BadInput if the URL or the environment is wrong; the server itself is first asked when there is mail for it."""
    account(ACCOUNT)
    if _place(url).archive is not None:
        sign_in(*ACCOUNTS)


def can_find(url: str) -> bool:
    """Only an archive can tell: no SMTP server says what it took earlier."""
    try:
        return _place(url).archive is not None
    except BadInput:
        return False  # an effect keeps the URL of its time, which may be refused by now


def find(url: str, key: str) -> Receipt | None:
    """Look into the archive; None only once it is certain enough, see there."""
    server, _, archive = place = _place(url)
    if archive is None:
        raise BadInput(
            "An SMTP server can not be asked what went out. Look into the sent or received mail, then resolve."
        )

    def send_probe(probe: str) -> None:
        text = "This mail was sent to see whether mail gets here. Nobody needs to do anything."
        mail = compose(probe, Effect(kind="probe", subject="Looking for a mail", body=text), archive.address)
        try:
            _hand_over(server, mail, archive.address, [archive.address])
        except (NotSent, OSError) as why:  # also of a connection lost: another probe is sent then
            raise NotNow(str(why), archive.wait) from why
        except Refused as why:
            raise BadInput(str(why)) from why

    if not holds(archive, key, send_probe):
        return None
    return Receipt(channel=place.url, reference=message_id(key), at=datetime.now(UTC), found=True)


def send(url: str, key: str, effect: Effect, sender: str) -> Receipt:
    """Hand one mail to the server.

    Raises NotSent or Refused while it is certain that the server did not take it, and OSError or
    SMTPException when the connection broke after the mail was on its way: then nobody can tell.
    """
    server, people, archive = place = _place(url)
    effect = effect.model_copy(update={"to": effect.to or people})
    readers = [one_address(effect.to or sender)]
    if archive is not None:
        # In the envelope alone: the reader sees nothing of it.
        readers.append(archive.address)
    _hand_over(server, compose(key, effect, sender), one_address(sender), readers)
    return Receipt(channel=place.url, reference=message_id(key), at=datetime.now(UTC))


def _hand_over(server: Server, mail: EmailMessage, writer: str, readers: Sequence[str]) -> None:
    user = account(ACCOUNT)
    with contextlib.ExitStack() as closing:
        try:
            connection = _connected(server, writer.rpartition("@")[2])
            # No QUIT: it could fail, and a mail that was taken stays taken.
            closing.callback(connection.close)
            if server.how == "starttls":
                connection.starttls(context=trusted())
            if user is not None:
                connection.login(*user)
            _envelope(connection, server, writer, readers)
        except smtplib.SMTPResponseException as why:
            raise _no(server, why.smtp_code, why.smtp_error) from why
        except (OSError, smtplib.SMTPException) as why:
            raise NotSent(
                f"The mail server {server.url} could not be used: {why}. It is tried again; see that it runs."
            ) from why
        _content(connection, server, mail)


def _connected(server: Server, name: str) -> smtplib.SMTP:
    # The name given is not this machine's: finding that may take a DNS server's patience.
    if server.how == "tls":
        return smtplib.SMTP_SSL(server.host, server.port, name, timeout=TIMEOUT, context=trusted())
    return smtplib.SMTP(server.host, server.port, name, timeout=TIMEOUT)


def _envelope(connection: smtplib.SMTP, server: Server, writer: str, readers: Sequence[str]) -> None:
    connection.ehlo_or_helo_if_needed()
    for command in (f"MAIL FROM:<{writer}>", *(f"RCPT TO:<{reader}>" for reader in readers)):
        code, said = connection.docmd(command)
        if code // 100 != 2 and readers[1:] and command == f"RCPT TO:<{readers[-1]}>":
            # Without its copy nothing leaves, and the reader's address is not to blame for that.
            raise NotSent(
                f"The mail server {server.url} does not take the copy for {readers[-1]}: {code} {_said(said)}. It is "
                "tried again; see that the address can be written to."
            )
        if code // 100 != 2:
            raise smtplib.SMTPResponseException(code, said)
    code, said = connection.docmd("DATA")
    if code != 354:
        raise smtplib.SMTPResponseException(code, said)


def _content(connection: smtplib.SMTP, server: Server, mail: EmailMessage) -> None:
    # From here on only an answer of the server is certain: an exception passes through, and means «unknown».
    lines = mail.as_bytes().splitlines()
    connection.send(b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines) + b".\r\n")
    code, said = connection.getreply()
    if code // 100 in (4, 5):
        raise _no(server, code, said)
    if code // 100 != 2:
        raise smtplib.SMTPServerDisconnected(f"{server.url} answered {code} to the mail, which says neither yes nor no")


def _no(server: Server, code: int, said: bytes | str) -> NotSent | Refused:
    """What the server's own «no» means: later for 4xx and noise, never for 5xx."""
    words = _said(said)
    if code // 100 == 5:
        hint = (
            f"See {ACCOUNT}_USER and {ACCOUNT}_PASSWORD."
            if code in (530, 534, 535)
            else "See the address and the server's rules."
        )
        return Refused(f"The mail server {server.url} refused the mail for good: {code} {words}. {hint}")
    return NotSent(f"The mail server {server.url} does not take the mail now: {code} {words}. It is tried again.")


def _said(said: bytes | str) -> str:
    return one_line(said.decode("utf-8", "replace") if isinstance(said, bytes) else said)
