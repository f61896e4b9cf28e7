"""One request to the model and what it costs, whichever way it came."""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from tests.claude.answer import SPOILS, Answer, compose, message, spoil
from tests.claude.brain import Brain, Say, Script
from tests.claude.cache import Cache
from tests.claude.check import check
from tests.claude.errors import Body, Refused
from tests.claude.faults import Fault, Faults
from tests.claude.log import Entry, Log
from tests.claude.prompt import asked, input_tokens, parts, request_hash

WINDOW = 200_000  # tokens, of every model


class Model:
    def __init__(self, log: Log, brain: Brain) -> None:
        self.script, self.faults, self.models = Script(brain), Faults(), set[str]()
        self.window = WINDOW
        self.released = asyncio.Event()
        self.in_flight: list[str] = []
        self.ahead = 0.0  # seconds by which the clock here was put forward
        self._log, self._cache = log, Cache()

    def now(self) -> float:
        return time.time() + self.ahead

    def check(self, body: Body, counting: bool = False) -> None:
        check(body, self.models, counting)
        if not counting and (counted := input_tokens(body)) > self.window:
            raise Refused(400, f"prompt is too long: {counted} tokens > {self.window} maximum")

    def answer(self, body: Body, key: str, tier: str, fault: Fault | None, arrived: float | None = None) -> Body:
        """Say something and charge for it: from here on it is billed."""
        # A request for no tokens only warms the cache.
        said = compose(self._think(body), body) if body["max_tokens"] else Answer([], "max_tokens")
        if fault and fault.kind in SPOILS:
            said = spoil(said, fault.kind)
        usage = self._cache.charge(f"{key} {body['model']}", parts(body), self.now(), arrived)
        return message(said, body["model"], usage | {"service_tier": tier})

    def _think(self, body: Body) -> list[Say]:
        try:
            return self.script(body)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            raise Refused(500, f"the brain failed: {error!r}") from error

    def note(
        self,
        kind: str,
        body: Body,
        key: str,
        request_id: str,
        status: int = 0,
        paid: Body | None = None,
        answered: bool = False,
        fault: Fault | None = None,
        custom_id: str = "",
    ) -> None:
        """Write what happened; `paid` is the message that was billed."""
        whole = isinstance(body.get("messages"), list)
        try:
            label = asked(body)[0][:80] if whole else ""
        except (TypeError, KeyError, AttributeError):  # a request too broken to have words
            label = ""
        entry = Entry(
            time=time.time(),
            kind=kind,
            hash=request_hash(body),
            model=str(body.get("model", "")),
            key=key[-4:],
            status=status,
            billed=paid is not None,
            answered=answered,
            usage=paid["usage"] if paid else {},
            request_id=request_id,
            message_id=paid["id"] if paid else "",
            custom_id=custom_id,
            fault=fault.kind if fault else "",
            label=label,
        )
        self._log.write(entry)

    @contextmanager
    def flying(self, body: Body) -> Iterator[None]:
        """Tells, to whoever asks for the state, that this request is being worked on."""
        label = asked(body)[0][:80]
        self.in_flight.append(label)
        try:
            yield
        finally:
            self.in_flight.remove(label)
