"""Mail through an SMTP server, where everything up to the end of the mail is certain and what follows may not be."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import smtplib
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from urllib.parse import parse_qsl, urlsplit

from tasks.channels.message import compose, message_id, one_address, one_line
from tasks.errors import BadInput, NotSent, Refused
from tasks.records import Effect, Receipt

CAN_FIND = False  # no SMTP server says what it took earlier
TIMEOUT = 30.0  # seconds for each answer of the server
USER, PASSWORD = "HOLDFAST_SMTP_USER", "HOLDFAST_SMTP_PASSWORD"
WAY_OUT = f"Write smtp://host:25 or smtp://host:587?starttls=1; {USER} and {PASSWORD} stand in the environment."


@dataclass(frozen=True)
class Server:
    """Where a URL points to."""

    host: str
    port: int
    starttls: bool

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"smtp://{host}:{self.port}{'?starttls=1' if self.starttls else ''}"


def _server(url: str) -> Server:
    # No message repeats the URL, because a password may stand in it by mistake.
    try:
        parts = urlsplit(url)
        host, port, options = parts.hostname or "", parts.port or 25, dict(parse_qsl(parts.query))
    except ValueError as why:
        raise BadInput(f"An smtp: URL can not be read. {WAY_OUT}") from why
    if parts.username is not None or parts.password is not None:
        raise BadInput(f"The smtp: URL for {host!r} holds a user or password, and URLs are shown. {WAY_OUT}")
    starttls = options.pop("starttls", "0")
    odd = options or parts.path.strip("/") or parts.fragment or starttls not in {"0", "1"}
    if not host or not host.isascii() or one_line(host) != host or odd:
        raise BadInput(f"The smtp: URL for {host!r} names no server, or more than a server. {WAY_OUT}")
    return Server(host, port, starttls == "1")


def _account(server: Server) -> tuple[str, str] | None:
    user, password = os.environ.get(USER, ""), os.environ.get(PASSWORD, "")
    if not user and not password:
        return None
    if not user or not password:
        raise BadInput(f"Only one of {USER} and {PASSWORD} is set. Set both, or neither.")
    if not (user.isascii() and password.isascii()):
        raise BadInput(f"{USER} and {PASSWORD} may only hold ASCII characters; ask the mail server for others.")
    if not server.starttls and not _same_machine(server.host):
        raise BadInput(f"The password would travel to {server.host} in the clear. Add ?starttls=1 to the URL.")
    return user, password


def _same_machine(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def check(url: str) -> None:
    """BadInput if the URL or the environment is wrong; the server itself is first asked when there is mail for it."""
    _account(_server(url))


def find(url: str, key: str) -> Receipt | None:
    """BadInput always: a caller asks can_find() first."""
    raise BadInput("An SMTP server can not be asked what went out. Look into the sent or received mail, then resolve.")


def send(url: str, key: str, effect: Effect, sender: str) -> Receipt:
    """Hand one mail to the server.

    Raises NotSent or Refused while it is certain that the server did not take it, and OSError or
    SMTPException when the connection broke after the mail was on its way: then nobody can tell.
    """
    server = _server(url)
    account = _account(server)
    mail = compose(key, effect, sender)
    writer, reader = one_address(sender), one_address(effect.to or sender)
    with contextlib.ExitStack() as closing:
        try:
            # The name given is not this machine's: finding that may take a DNS server's patience.
            connection = smtplib.SMTP(server.host, server.port, writer.rpartition("@")[2], timeout=TIMEOUT)
            # No QUIT: it could fail, and a mail that was taken stays taken.
            closing.callback(connection.close)
            if server.starttls:
                connection.starttls(context=ssl.create_default_context())
            if account is not None:
                connection.login(*account)
            _envelope(connection, writer, reader)
        except smtplib.SMTPResponseException as why:
            raise _no(server, why.smtp_code, why.smtp_error) from why
        except (OSError, smtplib.SMTPException) as why:
            raise NotSent(
                f"The mail server {server.url} could not be used: {why}. It is tried again; see that it runs."
            ) from why
        _content(connection, server, mail)
    return Receipt(channel=server.url, reference=message_id(key), at=datetime.now(UTC))


def _envelope(connection: smtplib.SMTP, writer: str, reader: str) -> None:
    connection.ehlo_or_helo_if_needed()
    for command in (f"MAIL FROM:<{writer}>", f"RCPT TO:<{reader}>"):
        code, said = connection.docmd(command)
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
    words = one_line(said.decode("utf-8", "replace") if isinstance(said, bytes) else said)
    if code // 100 == 5:
        hint = f"See {USER} and {PASSWORD}." if code in (530, 534, 535) else "See the address and the server's rules."
        return Refused(f"The mail server {server.url} refused the mail for good: {code} {words}. {hint}")
    return NotSent(f"The mail server {server.url} does not take the mail now: {code} {words}. It is tried again.")
