"""An effect as a real mail: headers are made here and never taken from what a customer wrote."""

from __future__ import annotations

import hashlib
import re
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate

from tasks.errors import BadInput
from tasks.records import Effect

DOMAIN = "holdfast.invalid"  # fixed, so that a mail is found again whatever address the agent writes from then
SANE_ID = re.compile(r"<[^<>\s\x00-\x20\x7f-\uffff]{1,248}>")
ADDRESS = re.compile(r"([A-Za-z0-9.!#$%&*+/=?^_`{|}~'-]{1,64})@((?:[A-Za-z0-9-]{1,63}\.)*[A-Za-z0-9-]{1,63})")


def digest(key: str) -> str:
    """The key in a form that any header and file name takes."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def message_id(key: str, domain: str = DOMAIN) -> str:
    """The same for the same business intent, in every run and on every machine."""
    return f"<{digest(key)[:32]}@{domain}>"


def one_line(text: str, limit: int = 200) -> str:
    """Text that can stand in a header: no line breaks, no control characters."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())[:limit]


def one_address(text: str) -> str:
    """The text, if it is exactly one address; BadInput otherwise, because a header would take a whole list."""
    if len(text) > 254 or not ADDRESS.fullmatch(text):
        raise BadInput(f"{one_line(text)!r} is not one mail address. Write it as name@example.com, without a name.")
    return text


def _header(text: str) -> Address:
    name, _, domain = one_address(text).rpartition("@")
    return Address(username=name, domain=domain)


def compose(key: str, effect: Effect, sender: str) -> EmailMessage:
    """The mail for an effect; one without a recipient goes to the agent's own address."""
    mail = EmailMessage(policy=SMTP)
    mail["From"] = _header(sender)
    mail["To"] = _header(effect.to or sender)
    mail["Subject"] = one_line(effect.subject)
    mail["Date"] = formatdate(localtime=False)
    mail["Message-ID"] = message_id(key)
    if SANE_ID.fullmatch(effect.in_reply_to):
        mail["In-Reply-To"] = effect.in_reply_to
    if known := [one for one in effect.references if SANE_ID.fullmatch(one)]:
        mail["References"] = " ".join(known if len(known) <= 20 else [known[0], *known[-19:]])  # the root stays
    mail["Auto-Submitted"] = "auto-replied"
    mail["X-Holdfast-Key"] = digest(key)
    body = "".join(one if one >= " " or one in "\n\t" else " " for one in effect.body.replace("\r\n", "\n"))
    # Only ASCII on the wire, so that no server on the way has a reason to change or refuse it.
    mail.set_content(body.encode("utf-8", "replace").decode("utf-8"), cte="quoted-printable")
    mail.policy = SMTP.clone(max_line_length=990)  # a shorter one makes the email package encode, so break, long ids
    return mail
