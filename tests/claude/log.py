"""What every request cost, one JSON line each, kept outside of whoever asked."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """A request as the server saw it.

    It is written before the first byte of the answer, so that whoever has an answer finds its entry. `answered` means
    that an answer in full was about to be sent to a client that was still there; of a request that was billed and not
    answered, only the server knows.
    """

    time: float
    kind: str  # message, batch, batch item, count
    hash: str
    model: str
    key: str  # its last four characters
    status: int  # 0: no answer at all
    billed: bool
    answered: bool
    usage: dict[str, Any]
    request_id: str
    message_id: str
    custom_id: str  # of a batch's item
    fault: str
    label: str


class Log:
    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, entry: Entry) -> None:
        os.write(self._file, (json.dumps(entry._asdict()) + "\n").encode())


def read(path: Path) -> list[Entry]:
    """All entries so far, the oldest first; none before the server's first request."""
    return [Entry(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def paid_twice(entries: Iterable[Entry], answered: bool = False) -> list[str]:
    """Hashes of the requests that were billed more than once.

    With `answered`, only what was sent to a client that was there counts: a call that was under way when its client was
    killed can not be known to the client, and is paid again.
    """
    paid = Counter(one.hash for one in entries if one.billed and (one.answered or not answered))
    return [one for one, times in paid.items() if times > 1]
