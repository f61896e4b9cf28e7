"""Where the house keeps what is its own: `HOLDFAST_HOME`, or `.holdfast` in the clone."""

from __future__ import annotations

import os
from pathlib import Path

from tasks.errors import BadInput

PROJECT = Path(__file__).resolve().parents[1]


def home() -> Path:
    """The folder of ledger, logs and relative mail folders; absolute."""
    return Path(os.environ.get("HOLDFAST_HOME") or PROJECT / ".holdfast").absolute()


def taught() -> Path:
    """A file that is touched whenever what skills were taught changes: processes that learnt before look at it."""
    return home() / "taught"


def folder_of(url: str) -> Path:
    """The folder a `maildir:` URL names; a relative one lies in the house's own folder."""
    path = url.partition(":")[2]
    if not path.strip("/"):
        raise BadInput(f"{url!r} names no folder. Write maildir:///absolute/path, or maildir:inbox in HOLDFAST_HOME.")
    return (
        Path(os.path.abspath("/" + path.lstrip("/"))) if path.startswith("/") else Path(os.path.abspath(home() / path))
    )
