"""A raw mail as an arrival: whatever the bytes are, this ends with a case and never with an exception."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message
from email.parser import BytesHeaderParser
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from typing import TypeVar

from pydantic import JsonValue

from tasks.channels.message import DOMAIN
from tasks.records import Arrival

T = TypeVar("T")
TEXT_LIMIT = 200_000  # characters: more is a log somebody pasted, and would only be paid for
PARTS_LIMIT = 200  # of one mail: more is an attack on whoever opens it
SANE_ID = re.compile(r"<[^<>\s\x00-\x20\x7f-\uffff]{1,248}>")
ADDRESS = r"[A-Za-z0-9.!#$%&*+/=?^_`{|}~'-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
# A name before the address may be anything that is no second address: a list, a group or a bare comma is refused.
FROM = re.compile(
    rf"""(?P<name>(?:"(?:[^"\\]|\\.)*"|[^"<>,;:()])*)<(?P<angle>{ADDRESS})>|(?P<bare>{ADDRESS})(?:\s+\((?P<note>[^()]*)\))?"""
)
# What mailing lists, bounces, auto-replies and our own mails carry, and what people write does not.
PROGRAMS = ("List-Id", "List-Post", "List-Unsubscribe", "X-Loop", "X-Autoreply", "X-Autorespond", "X-Failed-Recipients")
SILENT = {"all", "oof", "autoreply"}  # what Exchange writes where nobody shall answer by himself
ROBOTS = {"mailer-daemon", "postmaster", "no-reply", "noreply", "do-not-reply", "donotreply"}


def _or(otherwise: T, read: Callable[[], T]) -> T:
    """What was read, or the other value: on a broken mail the email package raises nearly everything there is."""
    try:
        return read()
    except Exception:
        return otherwise


def parse(raw: bytes, marker: str, modified: float) -> Arrival:
    """Read one mail; `modified` is when the file was delivered, in seconds since 1970."""
    # Mails within mails, a thousand deep, end the full parser; the headers alone are read without recursion.
    mail = _or(None, lambda: message_from_bytes(raw)) or BytesHeaderParser().parsebytes(raw)
    own = _ids(mail, "Message-ID")
    key = own[0] if own else f"sha256:{hashlib.sha256(raw).hexdigest()}"
    references = _ids(mail, "References")[-50:]
    thread = (references or _ids(mail, "In-Reply-To") or [key])[0]
    name, sender = _or(("", ""), lambda: _from(mail))
    names: list[str] = []
    text = _or("", lambda: _body(mail, names))
    attributes: dict[str, JsonValue] = {
        "message_id": own[0] if own else "",
        "references": list(references),
        "from_name": name,
        "automatic": _automatic(mail, sender),
        "attachments": list(names[:20]),
        "truncated": len(text) > TEXT_LIMIT,
    }
    return Arrival(
        marker=marker,
        key=key,
        thread=thread,
        sender=sender,
        subject=clean(_header(mail, "Subject"), one_line=True)[:300],
        text=text[:TEXT_LIMIT],
        arrived=_arrived(mail, modified),
        attributes=attributes,
    )


def clean(text: str, one_line: bool = False) -> str:
    """Text that every database, terminal and header takes: no control characters, no lone surrogates."""
    kept = text
    if not text.isprintable():  # one by one takes a hundred times as long
        kept = "".join(c if c.isprintable() or c in "\n\t" else (" " if c != "\r" else "") for c in text)
        kept = kept.encode("utf-8", "replace").decode("utf-8")
    return " ".join(kept.split()) if one_line else kept.strip()


def _raw(mail: Message, name: str) -> str:
    """A header as it was written, on one line."""
    return " ".join(str(mail.get(name) or "").split())


def _header(mail: Message, name: str) -> str:
    written = _or("", lambda: _raw(mail, name))
    return _or(written, lambda: _decoded_words(written))


def _decoded_words(written: str) -> str:
    return str(make_header(decode_header(written)))


def _from(mail: Message) -> tuple[str, str]:
    """Name and address of the one person who wrote it.

    The address is taken from the header as written and only the name is decoded: an encoded word can spell
    another address. More than one header or address leaves none that an answer may go to.
    """
    found = FROM.fullmatch(_raw(mail, "From")) if len(mail.get_all("From") or ()) == 1 else None
    if found is None:
        return clean(_header(mail, "From"), one_line=True)[:100], ""
    written = (found["name"] or found["note"] or "").strip().strip('"')
    address = found["angle"] or found["bare"]
    name = clean(_or(written, lambda: _decoded_words(written)), one_line=True)[:100]
    return name, address if len(address) <= 254 else ""


def _ids(mail: Message, name: str) -> list[str]:
    return _or([], lambda: SANE_ID.findall(str(mail.get(name) or "")))


def _automatic(mail: Message, sender: str) -> bool:
    """Whether a program wrote it: answering those makes mail loops."""
    said = _header(mail, "Auto-Submitted").strip().lower()
    bulk = _header(mail, "Precedence").strip().lower() in {"bulk", "list", "junk", "auto_reply"}
    nobody = sender.partition("@")[0].lower() in ROBOTS or _header(mail, "Return-Path").strip() == "<>"
    silent = set(re.findall(r"[a-z]+", _header(mail, "X-Auto-Response-Suppress").lower())) & SILENT
    ours = any(one.endswith(f"@{DOMAIN}>") for one in _ids(mail, "Message-ID"))
    report = _or("", mail.get_content_type) == "multipart/report"  # a bounce, or word that a mail was read
    marked = any(mail.get(name) is not None for name in PROGRAMS)
    return said not in ("", "no") or bulk or nobody or bool(silent) or ours or report or marked


def _arrived(mail: Message, modified: float) -> datetime:
    delivered = _or(datetime.now(UTC), lambda: datetime.fromtimestamp(modified, UTC))
    return min(_or(delivered, lambda: _written(mail)), delivered)


def _written(mail: Message) -> datetime:
    at = parsedate_to_datetime(_header(mail, "Date"))
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _body(mail: Message, names: list[str]) -> str:
    """The text for people, plain if there is any; `names` takes those of what was attached and is not opened."""
    plain, html = [], []
    for part in _parts(mail):
        file = _file_name(part)
        if file or part.get_content_disposition() == "attachment":
            names.append(clean(file or "unnamed", one_line=True)[:100])
        elif part.get_content_type() == "text/html":
            html.append(_without_tags(_decoded(part)))
        elif part.get_content_maintype() == "text":
            plain.append(_decoded(part))
    return clean("\n".join(plain if any(one.strip() for one in plain) else html))


def _parts(mail: Message) -> list[Message]:
    """The leaves of a mail in order, without recursion."""
    found: list[Message] = []
    waiting = [mail]
    while waiting and len(found) < PARTS_LIMIT:
        part = waiting.pop()
        inside = part.get_payload()
        if part.is_multipart() and isinstance(inside, list):
            waiting.extend(one for one in reversed(inside) if isinstance(one, Message))
        else:
            found.append(part)
    return found


def _file_name(part: Message) -> str:
    return _or("unnamed", lambda: part.get_filename() or "")


def _decoded(part: Message) -> str:
    payload = _or(None, lambda: part.get_payload(decode=True))
    if not isinstance(payload, bytes):
        return str(part.get_payload())
    charset = _or("utf-8", lambda: str(part.get_param("charset") or "utf-8"))
    return _or(payload.decode("utf-8", "replace"), lambda: payload.decode(charset, "replace"))


class _Words(HTMLParser):
    """Collects what a reader would see."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("script", "style", "head")
        if tag in ("p", "br", "div", "li", "tr"):
            self.words.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style", "head") and self._hidden > 0

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)


def _without_tags(html: str) -> str:
    # html.parser gives up on some broken declarations
    return _or(re.sub(r"<[^>]*>", " ", html), lambda: _seen(html))


def _seen(html: str) -> str:
    reader = _Words()
    reader.feed(html)
    return "".join(reader.words)
