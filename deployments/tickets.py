"""The demo inbox: 47 mails to a fictional company, as different as real ones are."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from html import escape
from pathlib import Path
from typing import Any

ROWS = Path(__file__).with_name("tickets.json")
SUPPORT = Address("Fennmoor Gardens", "support", "example.com")
FIRST = datetime(2026, 3, 2, 7, 30, tzinfo=UTC)
BIG = 1_000_000  # bytes of the mail with the long log
JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffd9")  # opens as a picture nowhere, which is the point


def tickets(seed: int) -> list[bytes]:
    """The 47 mails in order of arrival; the seed decides the order and which phrasing each customer picked."""
    rows: list[dict[str, Any]] = json.loads(ROWS.read_text(encoding="utf-8"))
    dice = random.Random(seed)
    dice.shuffle(rows)
    # A later mail of a conversation can not come before the one it follows.
    rows.sort(key=lambda row: "parent" in row)
    written = FIRST
    mails = []
    for number, row in enumerate(rows):
        written += timedelta(minutes=dice.randint(2, 55))
        mails.append(_mail(row, number, dice.choice(row["texts"]), written))
    return mails


def _mail(row: Mapping[str, Any], number: int, text: str, written: datetime) -> bytes:
    mail = EmailMessage(policy=SMTP)
    name, _, domain = str(row["address"]).partition("@")
    mail["From"] = Address(row["name"], name, domain)
    mail["To"] = SUPPORT
    mail["Subject"] = row["subject"]
    mail["Date"] = format_datetime(written)
    if not row.get("no_id"):
        mail["Message-ID"] = f"<{row.get('id') or f'{name}.{number}@{domain}'}>"
    if parent := row.get("parent"):
        mail["In-Reply-To"] = mail["References"] = f"<{parent}>"
    if row.get("log"):
        text += "\n\n" + _log()
    if row.get("html"):
        mail.set_content(f"<html><body><p>{escape(text)}</p></body></html>\n", subtype="html", charset="utf-8")
    elif text:
        mail.set_content(f"{text}\n\n{row['name']}\n", charset=row.get("charset", "utf-8"))
    else:
        mail.set_content("")
    if file := row.get("attachment"):
        mail.add_attachment(JPEG, maintype="image", subtype="jpeg", filename=file)
        mail.set_boundary(f"part-of-{number}")  # the email package would draw one at random
    return mail.as_bytes()


def _log() -> str:
    line = "{:06} pairing: no answer from the garden on channel {}, trying the next one"
    lines: list[str] = []
    size = 0
    while size < BIG:
        lines.append(line.format(len(lines), len(lines) % 13 + 1))
        size += len(lines[-1]) + 1
    return "\n".join(lines)


def deliver(mails: Sequence[bytes], folder: Path) -> None:
    """Put mails into a Maildir, made if there is none, one second apart so that their order is known."""
    for part in ("tmp", "new", "cur"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    first = int(datetime.now(UTC).timestamp()) - len(mails)
    for number, raw in enumerate(mails):
        name = f"{first + number}.T{number:04}.demo"
        draft = folder / "tmp" / name
        draft.write_bytes(raw.replace(b"\r\n", b"\n"))
        os.utime(draft, (first + number, first + number))
        draft.rename(folder / "new" / name)
