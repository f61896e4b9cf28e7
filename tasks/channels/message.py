"""An effect as a real mail: headers are made here and never taken from what a customer wrote."""

from __future__ import annotations

import hashlib
import re
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate

from tasks.records import Effect

DOMAIN = "holdfast.invalid"  # fixed, so that a mail is found again whatever address the agent writes from then
SANE_ID = re.compile(r"<[^<>\s\x00-\x20\x7f-\uffff]{1,248}>")


def message_id(key: str) -> str:
    """The same for the same business intent, in every run and on every machine."""
    return f"<{hashlib.sha256(key.encode()).hexdigest()[:32]}@{DOMAIN}>"


def one_line(text: str, limit: int = 200) -> str:
    """Text that can stand in a header: no line breaks, no control characters."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())[:limit]


def compose(key: str, effect: Effect, sender: str) -> EmailMessage:
    """The mail for an effect; one without a recipient goes to the agent's own address."""
    mail = EmailMessage(policy=SMTP)
    mail["From"] = one_line(sender)
    mail["To"] = one_line(effect.to or sender)
    mail["Subject"] = one_line(effect.subject)
    mail["Date"] = formatdate(localtime=False)
    mail["Message-ID"] = message_id(key)
    if SANE_ID.fullmatch(effect.in_reply_to):
        mail["In-Reply-To"] = effect.in_reply_to
    if known := [one for one in effect.references if SANE_ID.fullmatch(one)][-20:]:
        mail["References"] = " ".join(known)
    mail["Auto-Submitted"] = "auto-replied"
    mail.set_content(effect.body)
    return mail
