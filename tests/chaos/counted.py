"""A way out for the chaos suite that can be searched but drops no repeat: every send leaves one more mail."""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime
from email.parser import BytesHeaderParser
from pathlib import Path
from types import ModuleType
from typing import Any

from tasks.channels.message import compose, digest, message_id
from tasks.records import Effect, Receipt

CAN_FIND = True


def _new(url: str) -> Path:
    folder = Path(url.partition(":")[2]) / "new"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check(url: str) -> None:
    _new(url)


def send(url: str, key: str, effect: Effect, sender: str) -> Receipt:
    folder, name = _new(url), uuid.uuid4().hex
    draft = folder.parent / name
    draft.write_bytes(compose(key, effect, sender).as_bytes())
    os.link(draft, folder / name)
    return Receipt(channel=url, reference=message_id(key), at=datetime.now(UTC))


def find(url: str, key: str) -> Receipt | None:
    for path in _new(url).iterdir():
        with path.open("rb") as handle:
            if BytesHeaderParser().parse(handle)["X-Holdfast-Key"] == digest(key):
                return Receipt(channel=url, reference=message_id(key), at=datetime.now(UTC), found=True)
    return None


def add_to(channels: Any, module: ModuleType) -> None:
    """Let `counted:` URLs reach this module, in this process only."""
    known = channels._channel
    channels._channel = lambda url: module if url.startswith("counted:") else known(url)
