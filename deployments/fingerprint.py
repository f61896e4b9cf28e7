"""Tells whether what a process has imported is still what lies on the disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
ROOMS = ("flows", "skills", "tasks", "deployments")
BESIDE = ("prefect.yaml", "prefect.toml", "pyproject.toml", ".env")  # where Prefect finds agents and settings
Stamp = tuple[int, int, int, int] | None


class Fingerprint:
    """What the disk looked like when it was made; make it before anything is imported."""

    def __init__(self) -> None:
        # Installing, upgrading or removing a package renames its metadata, which changes the folder it lies in.
        self._packages = [one for one in sys.path if one and Path(one) != PROJECT]
        self._modules: list[str] = []
        self._then = self._last = self._now()

    def add_modules(self) -> None:
        """Watch also what was loaded from neither a room nor an installed package."""
        known = tuple(f"{one}{os.sep}" for one in (sys.prefix, sys.base_prefix, *(PROJECT / room for room in ROOMS)))
        files = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
        self._modules = sorted(path for path in files if path and not path.startswith(known))
        self._then |= {path: _stamp(path) for path in self._modules}

    def changed(self) -> str:
        """A file or folder that is not what it was; '' if all are."""
        self._last = self._now()
        paths = sorted(self._last.keys() | self._then.keys())
        return next((path for path in paths if self._last.get(path) != self._then.get(path)), "")

    def at_rest(self) -> bool:
        """Whether nothing changed since the last look: a checkout or an installation writes for a while."""
        before, self._last = self._last, self._now()
        return self._last == before

    def _now(self) -> dict[str, Stamp]:
        paths = [*_files(), *(str(PROJECT / name) for name in BESIDE), sys.executable, f"{sys.prefix}/pyvenv.cfg"]
        # `tasks.home.taught`, named anew because nothing of ours may be imported before this: `warm_up()` learns it.
        paths.append(f"{os.environ.get('HOLDFAST_HOME') or PROJECT / '.holdfast'}/taught")
        return {path: _stamp(path) for path in (*paths, *self._packages, *self._modules)}


def _files() -> Iterator[str]:
    """Every file of the rooms, loaded or not: a new one changes the catalogue, and knowledge is no code."""
    folders = [str(PROJECT / room) for room in ROOMS]
    while folders:
        try:
            for one in os.scandir(folders.pop()):
                if one.name == "__pycache__" or one.name.startswith("."):
                    continue
                if one.is_dir():
                    folders.append(one.path)
                else:
                    yield one.path
        except FileNotFoundError:
            continue  # it went while we looked: its absence is the change


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    # The change time can not be set back, as `rsync -t` and `touch` do with the other one.
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
