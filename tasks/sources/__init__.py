"""Where cases come from: one file for each URL scheme, with poll(), canonical() and, if it can, finish() and look()."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from pydantic import JsonValue

from tasks.errors import BadInput
from tasks.ledger.arrivals import Concluded
from tasks.records import Arrival, Note, Signal, Unreadable

_SHARED = {"__init__", "mail"}
Found = Arrival | Unreadable | Note | Signal
"""What a poll yields. All is written in this order, so a note comes after the arrival that it stands for."""


class Known(NamedTuple):
    """What a source may ask of the ledger, about itself."""

    seen: Callable[[Sequence[str]], set[str]]
    """Which of these markers were recorded before."""
    recall: Callable[[str], dict[str, JsonValue]] = lambda prefix: {}
    """Its notes whose name begins with this."""
    concluded: Callable[[Sequence[str]], Mapping[str, Concluded]] = lambda keys: {}
    """The newest outcome of those of these cases that have one."""


def _source(url: str) -> ModuleType:
    scheme = url.partition(":")[0].partition("+")[0]
    known = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _SHARED)
    if scheme not in known:
        raise BadInput(f"No source is called {scheme!r}. Use one of: {', '.join(known)}.")
    return importlib.import_module(f"tasks.sources.{scheme}")


def canonical(url: str) -> str:
    """One name for one inbox, however its URL was written: cases are known by it."""
    name: str = _source(url).canonical(url)
    return name


def poll(url: str, known: Known) -> Iterator[Found]:
    """What is new in a source, oldest first."""
    found: Iterator[Found] = _source(url).poll(url, known)
    return found


def look(url: str) -> str:
    """What a source says of itself when it is asked now, in a few words; '' where nobody has to be asked.

    HoldfastError, which names the way out, if it can not be read.
    """
    source = _source(url)
    found: str = source.look(url) if hasattr(source, "look") else ""
    return found


def can_finish(url: str) -> bool:
    """Whether a source wants to know which of its markers are settled."""
    return hasattr(_source(url), "finish")


def finish(url: str, markers: Sequence[str]) -> None:
    """Tell a source that these are settled; it may hear so more than once."""
    _source(url).finish(url, markers)
