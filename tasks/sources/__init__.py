"""Where cases come from: one file for each URL scheme, with poll() and canonical()."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

from tasks.errors import BadInput
from tasks.records import Arrival, Unreadable

_SHARED = {"__init__", "mail"}
Seen = Callable[[Sequence[str]], set[str]]


def _source(url: str) -> ModuleType:
    scheme = url.partition(":")[0]
    known = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _SHARED)
    if scheme not in known:
        raise BadInput(f"No source is called {scheme!r}. Use one of: {', '.join(known)}.")
    return importlib.import_module(f"tasks.sources.{scheme}")


def canonical(url: str) -> str:
    """One name for one inbox, however its URL was written: cases are known by it."""
    name: str = _source(url).canonical(url)
    return name


def poll(url: str, seen: Seen) -> Iterator[Arrival | Unreadable]:
    """What is new in a source, oldest first; `seen` tells which markers were recorded before."""
    found: Iterator[Arrival | Unreadable] = _source(url).poll(url, seen)
    return found
