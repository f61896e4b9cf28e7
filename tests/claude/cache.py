"""Prompt caching by prefix, with the time that each prefix lives."""

from __future__ import annotations

import hashlib
import math
from itertools import accumulate
from typing import NamedTuple

from tests.claude.errors import Body
from tests.claude.prompt import Part

SECONDS = {"5m": 300, "1h": 3_600}
LOOKBACK = 20  # how many blocks before a breakpoint an earlier prefix is found


class _Known(NamedTuple):
    until: float
    seconds: int  # from each use
    since: float  # when the answer began that wrote it


class Cache:
    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}  # by a prefix's hash

    def charge(self, scope: str, parts: list[Part], now: float, arrived: float | None = None) -> Body:
        """Read the longest known prefix, write what is marked after it; the input half of a usage.

        A request finds what was written before it `arrived`: those that come together each write for themselves.
        """
        arrived = now if arrived is None else arrived
        prefixes, digest = [], hashlib.sha256(scope.encode())
        for part in parts:
            digest.update(f"\0{part.text}".encode())
            prefixes.append(digest.hexdigest())
        sums = [0, *accumulate(part.tokens for part in parts)]
        marks = [number for number, part in enumerate(parts, start=1) if part.ttl]
        near = {number for mark in marks for number in range(max(1, mark - LOOKBACK + 1), mark + 1)}
        read = max((number for number in near if self._lives(prefixes[number - 1], now, arrived)), default=0)
        for number in {read, *(one for one in marks if one <= read)} - {0}:
            self._use(prefixes[number - 1], now)
        for mark in (one for one in marks if one > read):
            seconds = SECONDS[parts[mark - 1].ttl or "5m"]
            since = self._known[prefixes[mark - 1]].since if self._lives(prefixes[mark - 1], now) else now
            self._known[prefixes[mark - 1]] = _Known(now + seconds, seconds, since)
        hour = max((mark for mark in marks if mark > read and parts[mark - 1].ttl == "1h"), default=read)
        last = max((mark for mark in marks if mark > read), default=read)
        written = {
            "ephemeral_1h_input_tokens": sums[hour] - sums[read],
            "ephemeral_5m_input_tokens": sums[last] - sums[hour],
        }
        return {
            "input_tokens": sums[-1] - sums[last],
            "cache_creation_input_tokens": sum(written.values()),
            "cache_read_input_tokens": sums[read],
            "cache_creation": written,
        }

    def _lives(self, prefix: str, now: float, arrived: float = math.inf) -> bool:
        found = self._known.get(prefix)
        return found is not None and now < found.until and found.since <= arrived

    def _use(self, prefix: str, now: float) -> None:
        if self._lives(prefix, now):
            found = self._known[prefix]
            self._known[prefix] = found._replace(until=now + found.seconds)
