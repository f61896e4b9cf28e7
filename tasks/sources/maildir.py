"""Tickets from a Maildir, which is read and never changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tasks.errors import BadInput
from tasks.home import folder_of
from tasks.records import Arrival, Unreadable
from tasks.sources.mail import parse

CHUNK = 500  # markers asked for at once, so that a large inbox costs few queries


def canonical(url: str) -> str:
    """`maildir:` and the absolute path."""
    return f"maildir:{folder_of(url)}"


def poll(url: str, seen: Callable[[Sequence[str]], set[str]]) -> Iterator[Arrival | Unreadable]:
    """Mails that were not recorded before, in order of arrival; one mail is in memory at a time."""
    folder = folder_of(url)
    if not (folder / "new").is_dir():
        raise BadInput(
            f"There is no Maildir at {folder}. Make it with `mkdir -p {folder}/new {folder}/cur {folder}/tmp`."
        )
    fresh: list[tuple[float, str, Path]] = []
    files = [
        Path(entry.path) for part in ("new", "cur") if (folder / part).is_dir() for entry in os.scandir(folder / part)
    ]
    for start in range(0, len(files), CHUNK):
        names = {_marker(path): path for path in files[start : start + CHUNK]}
        for marker in names.keys() - seen(list(names)):
            try:
                fresh.append((names[marker].stat().st_mtime, marker, names[marker]))
            except FileNotFoundError:
                continue  # a mail program moved it; the next tick sees it where it is
    for modified, marker, path in sorted(fresh):
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as why:
            yield Unreadable(marker=marker, why=f"{path} can not be read: {why}. Let this user read it.")
            continue
        yield parse(raw, marker, modified)


def _marker(path: Path) -> str:
    """A mail's name without the flags that mail programs change."""
    return path.name.partition(":2,")[0]
