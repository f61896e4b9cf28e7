"""Tickets from a Maildir, which is read and never changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tasks.errors import BadInput
from tasks.home import folder_of
from tasks.records import Arrival, Unreadable
from tasks.sources import Known
from tasks.sources.mail import parse

CHUNK = 500  # markers asked for at once, so that a large inbox costs few queries
LIMIT = 64 * 1024 * 1024  # bytes: more than any mail server takes, less than what a machine runs out of


def canonical(url: str) -> str:
    """`maildir:` and the absolute path."""
    return f"maildir:{folder_of(url)}"


def poll(url: str, known: Known) -> Iterator[Arrival | Unreadable]:
    """Mails that were not recorded before, in order of arrival; one mail is in memory at a time."""
    folder = folder_of(url)
    try:
        # A mail that is moved meanwhile goes from new to cur, so it is seen in this order.
        files = [*_files(folder / "new"), *(_files(folder / "cur") if (folder / "cur").is_dir() else ())]
    except (FileNotFoundError, NotADirectoryError) as why:
        raise BadInput(
            f"There is no Maildir at {folder}. Make it with `mkdir -p {folder}/new {folder}/cur {folder}/tmp`."
        ) from why
    except OSError as why:
        raise BadInput(f"The Maildir {folder} can not be listed: {why}. Let this user read its folders.") from why
    fresh: list[tuple[float, str, Path]] = []
    for start in range(0, len(files), CHUNK):
        names = {_marker(path): path for path in files[start : start + CHUNK]}
        for marker in names.keys() - known.seen(list(names)):
            try:
                fresh.append((names[marker].stat().st_mtime, marker, names[marker]))
            except FileNotFoundError:
                continue  # a mail program moved it; the next tick sees it where it is
            except OSError as why:
                yield _unreadable(marker, why)
    for modified, marker, path in sorted(fresh):
        try:
            raw = _read(path)
        except FileNotFoundError:
            continue
        except OSError as why:
            yield _unreadable(marker, why)
            continue
        yield parse(raw, marker, modified)


def _files(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if not entry.name.startswith(".")]


def _read(path: Path) -> bytes:
    # Not blocking, or a named pipe among the mails would hold the inbox for ever.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as handle:
        if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
            raise OSError("it is not a file")
        raw = handle.read(LIMIT + 1)
    if len(raw) > LIMIT:
        raise OSError(f"it is larger than {LIMIT} bytes")
    return raw


def _unreadable(marker: str, why: OSError) -> Unreadable:
    reason = why.strerror or str(why)
    return Unreadable(
        marker=marker, why=f"{marker!r} can not be read: {reason}. Mend it for this user, or take it out of the inbox."
    )


def _marker(path: Path) -> str:
    """A mail's name without the flags that mail programs change, in letters that every database takes."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace").partition(":2,")[0]
