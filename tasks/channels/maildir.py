"""Mail into a Maildir, delivered once under its key and found again by its Message-ID."""

from __future__ import annotations

import hashlib
import os
import uuid
from datetime import UTC, datetime
from email.parser import BytesHeaderParser
from pathlib import Path

from tasks.channels.message import compose, message_id
from tasks.errors import BadInput, NotSent
from tasks.records import Effect, Receipt

CAN_FIND = True


def _folder(url: str) -> Path:
    path = url.partition(":")[2]
    if not path.strip("/"):
        raise BadInput(f"{url!r} names no folder. Write maildir:///absolute/path.")
    return Path("/" + path.lstrip("/")) if path.startswith("//") else Path(path)


def check(url: str) -> None:
    """BadInput if the folder can not be made or written."""
    folder = _folder(url)
    try:
        for part in ("tmp", "new", "cur"):
            (folder / part).mkdir(parents=True, exist_ok=True)
    except OSError as why:
        raise BadInput(f"The Maildir {folder} can not be used: {why}. Make it writable for this user.") from why


def _name(key: str) -> str:
    return f"holdfast.{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def send(url: str, key: str, effect: Effect, sender: str) -> Receipt:
    """Write the mail durably; a second delivery under the same key makes no second file."""
    folder, name = _folder(url), _name(key)
    receipt = Receipt(channel=url, reference=message_id(key), at=datetime.now(UTC))
    if any((folder / "cur").glob(f"{name}*")):
        return receipt
    draft = folder / "tmp" / f"{name}.{uuid.uuid4().hex}"
    try:
        check(url)
        with draft.open("xb") as handle:
            handle.write(compose(key, effect, sender).as_bytes())
            handle.flush()
            os.fsync(handle.fileno())
    except (OSError, BadInput) as why:
        draft.unlink(missing_ok=True)
        raise NotSent(f"The mail could not be written to {folder}: {why}. Free space or mend its permissions.") from why
    try:
        os.link(draft, folder / "new" / name)
    except FileExistsError:
        pass  # it is there already, which is what was asked for
    except OSError as why:
        draft.unlink(missing_ok=True)
        raise NotSent(f"The mail could not be delivered to {folder}: {why}.") from why
    draft.unlink(missing_ok=True)
    directory = os.open(folder / "new", os.O_RDONLY)
    try:
        os.fsync(directory)  # or a power cut could take back what the ledger calls confirmed
    finally:
        os.close(directory)
    return receipt


def find(url: str, key: str) -> Receipt | None:
    """Look by name, then by Message-ID, because a mail program may have moved or renamed it."""
    folder, name, wanted = _folder(url), _name(key), message_id(key)
    for part in ("new", "cur"):
        for path in (folder / part).glob("*"):
            if path.name.startswith(name) or _id_of(path) == wanted:
                return Receipt(channel=url, reference=wanted, at=datetime.now(UTC), found=True)
    return None


def _id_of(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return str(BytesHeaderParser().parse(handle).get("Message-ID", "")).strip()
    except OSError:
        return ""
