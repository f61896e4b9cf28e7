"""A folder of an IMAP server: what lies in it, what it is marked with, and nothing changed that was not asked for."""

from __future__ import annotations

import contextlib
import imaplib
import re
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote

from tasks.errors import BadInput, NotNow
from tasks.wire import TIMEOUT, Server, account, read_url, trusted

WAY_OUT = "Write imap://host/FOLDER; user and password stand in HOLDFAST_IMAP_USER and HOLDFAST_IMAP_PASSWORD."
AGAIN_SECONDS = 60.0  # until a case that waits for a server's answer asks again
FLAGS = re.compile(rb"FLAGS \(([^)]*)\)")
ITEMS = re.compile(rb"\b(UID|RFC822\.SIZE|MODSEQ) \(?(\d+)\)?")
DATE = re.compile(rb'INTERNALDATE "([^"]+)"')


class Folder(NamedTuple):
    """Where a URL points to."""

    server: Server
    name: str

    @property
    def url(self) -> str:
        return f"{self.server.url}/{quote(self.name)}"


class Entry(NamedTuple):
    """A mail as the server lists it."""

    uid: int
    size: int
    flags: frozenset[str]
    """In lower case: keywords know none."""
    arrived: float
    modseq: int
    """Rises with every change; 0 where the server counts none."""


def read_folder(url: str) -> Folder:
    """The folder that a URL names, INBOX if none; BadInput if it can not be one."""
    server, path, options = read_url(url, "imap", WAY_OUT)
    name = path or "INBOX"
    if options or not (name.isascii() and name.isprintable()):
        raise BadInput(
            f"The imap: URL for {server.host!r} names no folder, or more than a folder. Folders are written as the "
            f"server lists them, in ASCII. {WAY_OUT}"
        )
    return Folder(server, "INBOX" if name.upper() == "INBOX" else name)


def sign_in(*names: str) -> tuple[str, str]:
    """User and password of the first of these that is set; BadInput if none is."""
    for name in names:
        if found := account(name):
            return found
    raise BadInput(f"There is no account for the mailbox. Set {names[0]}_USER and {names[0]}_PASSWORD.")


class Mailbox:
    """An open folder."""

    def __init__(self, client: imaplib.IMAP4, validity: int) -> None:
        self._client, self.validity = client, validity
        _, said = client.capability()
        self.counts_changes = b"CONDSTORE" in b" ".join(said).upper().split() and not client.response("NOMODSEQ")[1][0]
        kept = client.response("PERMANENTFLAGS")[1][0] or b""
        self.keeps_keywords = b"\\*" in kept

    def search(self, *criteria: str) -> list[int]:
        """UIDs of the mails that these words of IMAP describe, oldest first."""
        self._ask("NOOP")  # some servers tell of new mail only then
        found = self._ask("UID", "SEARCH", *criteria)
        return sorted({int(uid) for line in found if line for uid in line.split()})

    def has(self, message_id: str) -> bool:
        """Whether a mail with this Message-ID lies here."""
        return bool(self.search("HEADER", "Message-ID", f'"{message_id}"'))

    def entries(self, uids: Sequence[int]) -> list[Entry]:
        """What the server says of these mails; those that are gone are left out."""
        if not uids:
            return []
        items = f"(UID FLAGS RFC822.SIZE INTERNALDATE{' MODSEQ' if self.counts_changes else ''})"
        found = self._ask("UID", "FETCH", ",".join(map(str, uids)), items)
        read = {one.uid: one for line in found if isinstance(line, bytes) and (one := _entry(line))}
        return [read[uid] for uid in uids if uid in read]

    def text(self, uid: int, limit: int) -> bytes | None:
        """A mail's first bytes, without marking it as read; None if it is gone, BadInput if it can not be given."""
        kind, found = self._client.uid("FETCH", str(uid), f"(UID BODY.PEEK[]<0.{limit}>)")
        if kind != "OK":
            raise BadInput(f"The server does not give it: {_words(found)}")
        return next((bytes(one[1]) for one in found if isinstance(one, tuple)), None)

    def mark(self, uids: Sequence[int], flags: str) -> None:
        """Add flags."""
        self._ask("UID", "STORE", ",".join(map(str, uids)), "+FLAGS.SILENT", f"({flags})")

    def mark_unchanged(self, one: Entry, flag: str) -> None:
        """Add a flag, where the server can do that only if the mail is still as it was listed: look what came of it."""
        only = [f"(UNCHANGEDSINCE {one.modseq})"] if one.modseq else []
        self._client.uid("STORE", str(one.uid), *only, "+FLAGS.SILENT", f"({flag})")

    def unmark(self, uid: int, flag: str) -> None:
        """Take a flag away."""
        self._ask("UID", "STORE", str(uid), "-FLAGS.SILENT", f"({flag})")

    def _ask(self, command: str, *words: str) -> list[Any]:
        kind, said = self._client.uid(*words) if command == "UID" else self._client.noop()
        if kind != "OK":
            raise imaplib.IMAP4.error(f"{command} {words[0] if words else ''}: {_words(said)}")
        return list(said)


@contextlib.contextmanager
def opened(folder: Folder, user: tuple[str, str], *, to_write: bool) -> Iterator[Mailbox]:
    """A folder's mailbox; NotNow if the server can not be used at the moment, BadInput if it never can so."""
    server = folder.server
    try:
        with contextlib.ExitStack() as closing:
            client = _connected(server)
            closing.callback(_closed, client)
            if server.how == "starttls":
                client.starttls(trusted())
            _signed_in(client, server, user)
            kind, said = client.select(_quoted(folder.name), readonly=not to_write)
            if kind != "OK":
                raise BadInput(f"{server.url} has no folder {folder.name!r} to open: {_words(said)}. {WAY_OUT}")
            validity = client.response("UIDVALIDITY")[1][0]
            yield Mailbox(client, int(validity or 0))
    except (OSError, ValueError, imaplib.IMAP4.error) as why:  # ValueError: it said something else than a number
        raise NotNow(
            f"The mail server {server.url} could not be used: {type(why).__name__} {_words([str(why)])}. It is asked "
            "again; see that it runs.",
            AGAIN_SECONDS,
        ) from why


def _connected(server: Server) -> imaplib.IMAP4:
    if server.how == "tls":
        return imaplib.IMAP4_SSL(server.host, server.port, ssl_context=trusted(), timeout=TIMEOUT)
    return imaplib.IMAP4(server.host, server.port, timeout=TIMEOUT)


def _closed(client: imaplib.IMAP4) -> None:
    # No LOGOUT: it could hang or fail, and changes nothing.
    with contextlib.suppress(OSError):
        client.shutdown()


def _signed_in(client: imaplib.IMAP4, server: Server, user: tuple[str, str]) -> None:
    # LOGIN would need quoting that imaplib does for one of both alone.
    name, password = user
    try:
        client.authenticate("PLAIN", lambda _: f"\0{name}\0{password}".encode())
    except imaplib.IMAP4.abort:
        raise
    except imaplib.IMAP4.error as why:
        raise BadInput(
            f"{server.url} does not let the user {name!r} in: {_words([str(why)])}. See its name and password."
        ) from why


def _entry(line: bytes) -> Entry | None:
    """One line of an answer to FETCH; None for what the server tells unasked, which holds only a part."""
    flags = FLAGS.search(line)
    # Anybody may name a keyword after an item, so flags are taken out before the rest is read.
    rest = FLAGS.sub(b"", line)
    numbers = {name.decode(): int(value) for name, value in ITEMS.findall(rest)}
    date = DATE.search(rest)
    if flags is None or "UID" not in numbers or "RFC822.SIZE" not in numbers:
        return None
    marked = frozenset(flags[1].decode("ascii", "replace").lower().split())
    arrived = _seconds(date[1] if date else b"")
    return Entry(numbers["UID"], numbers["RFC822.SIZE"], marked, arrived, numbers.get("MODSEQ", 0))


def _seconds(date: bytes) -> float:
    try:
        return datetime.strptime(date.decode("ascii").strip(), "%d-%b-%Y %H:%M:%S %z").astimezone(UTC).timestamp()
    except ValueError:
        return time.time()


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _words(said: Sequence[Any]) -> str:
    """What a server said, fit for a line of a log."""
    text = " ".join(one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in said)
    return "".join(one if one.isprintable() else " " for one in text)[:200]
