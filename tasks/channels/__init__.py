"""Ways out into the world: one file for each URL scheme, with send() and, where the outside can tell, find()."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from tasks.errors import BadInput
from tasks.records import Effect, Receipt

_SHARED = {"__init__", "archive", "message"}


def _channel(url: str) -> ModuleType:
    scheme = url.partition(":")[0].partition("+")[0]
    known = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _SHARED)
    if scheme not in known:
        raise BadInput(f"No channel is called {scheme!r}. Use one of: {', '.join(known)}.")
    return importlib.import_module(f"tasks.channels.{scheme}")


def send(url: str, key: str, effect: Effect, sender: str) -> Receipt:
    """Send once; NotSent if nothing left for certain, Refused if the outside will never take it."""
    found: Receipt = _channel(url).send(url, key, effect, sender)
    return found


def can_find(url: str) -> bool:
    """Whether the channel can tell if something went out before."""
    channel = _channel(url)
    return bool(channel.can_find(url) if hasattr(channel, "can_find") else channel.CAN_FIND)


def dedupes(url: str) -> bool:
    """Whether the outside itself refuses the same key twice, so that sending again makes no second one."""
    return bool(getattr(_channel(url), "DEDUPES", False))


def find(url: str, key: str) -> Receipt | None:
    """What went out under this key before, or None if certainly nothing did."""
    found: Receipt | None = _channel(url).find(url, key)
    return found


def check(url: str) -> None:
    """BadInput if this channel can not be used as configured."""
    _channel(url).check(url)
