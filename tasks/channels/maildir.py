"""Mail into a Maildir, delivered once under its key and found again by its Message-ID."""

from __future__ import annotations

import contextlib
import os
import uuid
from datetime import UTC, datetime
from email.parser import BytesHeaderParser
from pathlib import Path

from tasks.channels.message import compose, digest, message_id
from tasks.errors import BadInput, NotSent
from tasks.home import folder_of
from tasks.records import Effect, Receipt

CAN_FIND = True
ROOM = 64 * 1024  # bytes: with less on its disk a mail hardly fits, so a tick need not pay for one


def check(url: str) -> None:
    """BadInput if the folder can not be made or written, or if its disk is full."""
    folder = folder_of(url)
    try:
        for part in ("tmp", "new", "cur"):
            (folder / part).mkdir(parents=True, exist_ok=True)
    except OSError as why:
        raise BadInput(f"The Maildir {folder} can not be used: {why}. Make it writable for this user.") from why
    if not all(os.access(folder / part, os.W_OK | os.X_OK) for part in ("tmp", "new")):
        raise BadInput(f"The Maildir {folder} is read-only for this user. Make it writable, or remount its disk.")
    disk = os.statvfs(folder)
    if disk.f_blocks and disk.f_bavail * disk.f_frsize < ROOM:
        raise BadInput(f"The disk of the Maildir {folder} is full. Free space on it; nothing was lost.")


def _name(key: str) -> str:
    return f"holdfast.{digest(key)[:32]}"


def send(url: str, key: str, effect: Effect, sender: str) -> Receipt:
    """Write the mail durably; a second delivery under the same key makes no second file."""
    folder, name = folder_of(url), _name(key)
    receipt = Receipt(channel=url, reference=message_id(key), at=datetime.now(UTC))
    mail = compose(key, effect, sender)
    raw = mail.as_bytes(policy=mail.policy.clone(linesep="\n"))  # what files in a Maildir end their lines with
    draft = folder / "tmp" / f"{name}.{uuid.uuid4().hex}"
    try:
        check(url)
        if any(path.name.startswith(name) for path in _files(folder / "cur")):
            return receipt
        with draft.open("xb") as handle:
            handle.write(raw)
            handle.flush()
            os.fsync(handle.fileno())
    except (OSError, BadInput) as why:
        _remove(draft)
        raise NotSent(f"The mail could not be written to {folder}: {why}. Free space or mend its permissions.") from why
    try:
        os.link(draft, folder / "new" / name)
    except FileExistsError:
        pass  # it is there already, which is what was asked for
    except OSError as why:
        _remove(draft)
        raise NotSent(f"The mail could not be delivered to {folder}: {why}.") from why
    _remove(draft)
    directory = os.open(folder / "new", os.O_RDONLY)
    try:
        os.fsync(directory)  # or a power cut could take back what the ledger calls confirmed
    finally:
        os.close(directory)
    return receipt


def _remove(draft: Path) -> None:
    with contextlib.suppress(OSError):  # a draft that stays is harmless, an error here would hide the one that counts
        draft.unlink()


def find(url: str, key: str) -> Receipt | None:
    """Look by name, then by Message-ID, because a mail program may have moved or renamed it.

    Raises OSError where it can not look: None must mean that the mail is certainly not there.
    """
    folder, name, wanted = folder_of(url), _name(key), message_id(key)
    files = [path for part in ("new", "cur") for path in _files(folder / part)]
    if any(path.name.startswith(name) for path in files) or any(_id_of(path) == wanted for path in files):
        return Receipt(channel=url, reference=wanted, at=datetime.now(UTC), found=True)
    return None


def _files(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_file()]
    except FileNotFoundError:
        return []  # nothing was ever delivered here


def _id_of(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            head = b"".join(iter(lambda: handle.readline().lstrip(b"\r\n"), b""))
    except FileNotFoundError:
        return ""
    return str(BytesHeaderParser().parsebytes(head).get("Message-ID", "")).strip()
