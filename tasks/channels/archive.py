"""What went out, looked for in a folder that gets a copy of each mail in the same transaction as its reader.

A server that said yes to a mail owes it to both, so a copy that is there proves that the mail is out. That it is not
there proves something only in time: bytes of a dead process may still lie between it and the server, or a copy in the
server's queue. So a probe is sent to the folder afterwards. Only when that has arrived, which shows that copies do,
and `wait` seconds have passed, is a mail that is still missing taken for one that never left. A server that lets one
copy lie for longer than that, while the probe passes it, is the one case in which a mail could go out twice.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import NamedTuple

from tasks.channels.message import message_id
from tasks.errors import NotNow
from tasks.mailbox import Folder, opened, sign_in

ACCOUNTS = ("HOLDFAST_ARCHIVE", "HOLDFAST_IMAP")  # the first that is set
LOOK_SECONDS = 1.0


class Archive(NamedTuple):
    """Where copies go, and where they are looked for."""

    folder: Folder
    address: str
    wait: float
    """Seconds that the server has for a copy."""


def holds(archive: Archive, key: str, send_probe: Callable[[str], None]) -> bool:
    """Whether the mail of a key is there; NotNow while nobody can tell."""
    probe, wanted = f"probe/{uuid.uuid4().hex}", message_id(key)
    with opened(archive.folder, sign_in(*ACCOUNTS), to_write=False) as box:
        if box.has(wanted):
            return True
        send_probe(probe)
        until, arrived = time.monotonic() + archive.wait, False
        while True:
            over = time.monotonic() >= until  # before the look, so that the last one is after it
            arrived = arrived or box.has(message_id(probe))
            if box.has(wanted):
                return True
            if over and arrived:
                return False
            if over:
                raise NotNow(
                    f"A mail may be out, and what was sent to {archive.address} to find that out did not reach "
                    f"{archive.folder.url} within {archive.wait:g} s: see that mail to that address gets there. It is "
                    "looked for again.",
                    archive.wait,
                )
            time.sleep(min(LOOK_SECONDS, archive.wait / 10))
