"""Where a mail server is and how it is spoken to: encrypted, unless it is this machine."""

from __future__ import annotations

import os
import ssl
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from tasks.errors import BadInput
from tasks.web import same_machine

TIMEOUT = 30.0  # seconds for each answer of a server
CA = "HOLDFAST_MAIL_CA"
USUAL = {"imap": "tls", "smtp": "starttls"}  # what a URL without `+` means
PORTS = {
    ("imap", "tls"): 993,
    ("imap", "starttls"): 143,
    ("imap", "plain"): 143,
    ("smtp", "tls"): 465,
    ("smtp", "starttls"): 587,
    ("smtp", "plain"): 25,
}


class Server(NamedTuple):
    """Where a URL points to."""

    scheme: str
    how: str
    """`tls` from the first byte, `starttls`, or `plain` on this machine."""
    host: str
    port: int

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        how = "" if self.how == USUAL[self.scheme] else f"+{self.how}"
        return f"{self.scheme}{how}://{host}:{self.port}"


class Read(NamedTuple):
    """A URL, taken apart."""

    server: Server
    path: str
    options: dict[str, str]


def read_url(url: str, scheme: str, way_out: str) -> Read:
    """Take a URL of a mail server apart; BadInput if it is none, or would send mail in the clear."""
    # No message repeats the URL, because a password may stand in it by mistake.
    try:
        parts = urlsplit(url)
        host, given, options = parts.hostname or "", parts.port, dict(parse_qsl(parts.query, keep_blank_values=True))
    except ValueError as why:
        raise BadInput(f"An {scheme}: URL can not be read. {way_out}") from why
    named, _, how = parts.scheme.partition("+")
    how = how or USUAL[scheme]
    if parts.username is not None or parts.password is not None:
        raise BadInput(f"The {scheme}: URL for {host!r} holds a user or password, and URLs are shown. {way_out}")
    if not host or not (host.isascii() and host.isprintable()) or " " in host or parts.fragment or named != scheme:
        raise BadInput(f"The {scheme}: URL for {host!r} names no server, or more than a server. {way_out}")
    if (scheme, how) not in PORTS:
        raise BadInput(f"The {scheme}: URL for {host!r} wants to speak {how[:20]!r}, which is no way to. {way_out}")
    if how == "plain" and not same_machine(host):
        raise BadInput(
            f"{scheme}+plain: would send mail and password to {host} in the clear; it is for this machine alone. "
            f"{way_out}"
        )
    return Read(Server(scheme, how, host, given or PORTS[scheme, how]), unquote(parts.path.strip("/")), options)


def account(name: str) -> tuple[str, str] | None:
    """User and password from the environment, or None if neither is there; BadInput if they can not be used."""
    user, password = f"{name}_USER", f"{name}_PASSWORD"
    given = os.environ.get(user, ""), os.environ.get(password, "")
    if not any(given):
        return None
    if not all(given):
        raise BadInput(f"Only one of {user} and {password} is set. Set both, or neither.")
    if not all(one.isascii() and one.isprintable() for one in given):
        raise BadInput(f"{user} and {password} may only hold ASCII characters; ask the mail server for others.")
    return given


def trusted() -> ssl.SSLContext:
    """Whom a mail server's certificate must come from: the machine's authorities, or those in HOLDFAST_MAIL_CA."""
    file = os.environ.get(CA)
    try:
        return ssl.create_default_context(cafile=file or None)
    except OSError as why:
        raise BadInput(f"{CA} names {file!r}, where no certificates can be read: {why}. Name a file in PEM.") from why
