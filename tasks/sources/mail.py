"""A raw mail as an arrival: whatever the bytes are, this ends with a case and never with an exception."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message
from email.utils import parseaddr, parsedate_to_datetime
from html.parser import HTMLParser

from pydantic import JsonValue

from tasks.records import Arrival

TEXT_LIMIT = 200_000  # characters: more is a log somebody pasted, and would only be paid for
SANE_ID = re.compile(r"<[^<>\s\x00-\x20\x7f-\uffff]{1,248}>")
ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&*+/=?^_`{|}~'-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
ROBOTS = {"mailer-daemon", "postmaster", "no-reply", "noreply", "do-not-reply", "donotreply"}


def parse(raw: bytes, marker: str, modified: float) -> Arrival:
    """Read one mail; `modified` is when the file was delivered, in seconds since 1970."""
    mail = message_from_bytes(raw)
    own = _ids(mail, "Message-ID")
    key = own[0] if own else f"sha256:{hashlib.sha256(raw).hexdigest()}"
    references = _ids(mail, "References")[-50:]
    thread = (references or _ids(mail, "In-Reply-To") or [key])[0]
    name, address = parseaddr(_header(mail, "From"))
    sender = address if ADDRESS.fullmatch(address) and len(address) <= 254 else ""
    text, names = _body(mail)
    attributes: dict[str, JsonValue] = {
        "message_id": own[0] if own else "",
        "references": list(references),
        "from_name": clean(name, one_line=True)[:100],
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
    kept = "".join(c if c.isprintable() or c in "\n\t" else (" " if c != "\r" else "") for c in text)
    kept = kept.encode("utf-8", "replace").decode("utf-8")
    return " ".join(kept.split()) if one_line else kept.strip()


def _header(mail: Message, name: str) -> str:
    try:
        value = mail.get(name)
        return "" if value is None else str(make_header(decode_header(value)))
    except (LookupError, UnicodeError, ValueError):
        return str(mail.get(name))


def _ids(mail: Message, name: str) -> list[str]:
    try:
        return SANE_ID.findall(str(mail.get(name) or ""))
    except (LookupError, UnicodeError, ValueError):
        return []


def _automatic(mail: Message, sender: str) -> bool:
    """Whether a program wrote it: answering those makes mail loops."""
    said = _header(mail, "Auto-Submitted").strip().lower()
    bulk = _header(mail, "Precedence").strip().lower() in {"bulk", "list", "junk"}
    nobody = sender.partition("@")[0].lower() in ROBOTS or _header(mail, "Return-Path").strip() == "<>"
    return (said not in ("", "no")) or bulk or nobody or mail.get("List-Id") is not None


def _arrived(mail: Message, modified: float) -> datetime:
    delivered = datetime.fromtimestamp(modified, UTC)
    try:
        written = parsedate_to_datetime(_header(mail, "Date"))
        written = written.replace(tzinfo=UTC) if written.tzinfo is None else written.astimezone(UTC)
    except (ValueError, TypeError, OverflowError, IndexError):
        return delivered
    return min(written, delivered)


def _body(mail: Message) -> tuple[str, list[str]]:
    """The text for people, plain if there is any, and the names of what was attached and is not opened."""
    plain, html, names = [], [], []
    for part in mail.walk():
        if part.is_multipart():
            continue
        file = _file_name(part)
        if file or part.get_content_disposition() == "attachment":
            names.append(clean(file or "unnamed", one_line=True)[:100])
        elif part.get_content_type() == "text/html":
            html.append(_without_tags(_decoded(part)))
        elif part.get_content_maintype() == "text":
            plain.append(_decoded(part))
    return clean("\n".join(plain if any(one.strip() for one in plain) else html)), names


def _file_name(part: Message) -> str:
    try:
        return part.get_filename() or ""
    except (LookupError, UnicodeError, ValueError, TypeError):
        return "unnamed"


def _decoded(part: Message) -> str:
    try:
        payload = part.get_payload(decode=True)
    except (LookupError, UnicodeError, ValueError):
        payload = None
    if not isinstance(payload, bytes):
        return str(part.get_payload())
    charset = str(part.get_param("charset") or "utf-8")
    try:
        return payload.decode(charset, "replace")
    except (LookupError, UnicodeError, ValueError):
        return payload.decode("utf-8", "replace")


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
    reader = _Words()
    try:
        reader.feed(html)
    except (AssertionError, ValueError):  # html.parser gives up on some broken declarations
        return re.sub(r"<[^>]*>", " ", html)
    return "".join(reader.words)
