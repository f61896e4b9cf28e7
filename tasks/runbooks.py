"""Runbooks: texts in a folder of ours, named by an alert and never fetched from where an alert says."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from tasks.home import home

FOLDER = "HOLDFAST_RUNBOOKS"
LONGEST = 6_000  # bytes that are read
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")


def folder() -> Path:
    """Where they lie: HOLDFAST_RUNBOOKS, or `runbooks` in the house's own folder."""
    return Path(os.environ.get(FOLDER) or home() / "runbooks").absolute()


def runbook(*names: str) -> str:
    """The text of the first of these that there is, by the last part of its name, with or without `.md`; else ''."""
    for name in names:
        last = name.rstrip("/").rpartition("/")[2].partition("#")[0].partition("?")[0]
        if not NAME.fullmatch(last):
            continue
        for file in (last, f"{last}.md", f"{last}.txt"):
            if text := _read(folder() / file):
                return text
    return ""


def _read(path: Path) -> str:
    try:
        # A link could lead out of the folder, and a pipe would hold the case for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return ""
        return file.read(LONGEST).decode("utf-8", "replace").strip()
