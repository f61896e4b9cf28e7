"""What goes wrong, how often, and for which requests."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from tests.claude.answer import SPOILS
from tests.claude.errors import TYPES, Body, Refused
from tests.claude.prompt import words

STATUSES = {str(status) for status in TYPES}
# hang: no answer, ever. held: none before {"release": true}. html: a proxy's 502 in the way. stream_error: an error
# event after half of a stream. expired: a batch's item whose time is over.
BREAKS = {"hang", "held", "slow", "cut_before", "cut_after", "html", "stream_error", "expired"}
ON = ("message", "count", "batch", "item", "poll")


@dataclass
class Fault:
    kind: str  # a status, or one of SPOILS and BREAKS
    on: str = "message"
    match: str = ""  # a substring of the texts of system and messages
    model: str = ""
    skip: int = 0  # this many requests that fit go well first
    times: int | None = 1  # None: always
    delay: float = 0.0  # seconds before whatever happens
    retry_after: float | None = None
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in STATUSES | SPOILS | BREAKS or self.on not in ON:
            raise Refused(400, f"no fault is called {self.kind!r} on {self.on!r}")

    @property
    def refusal(self) -> Refused | None:
        if self.kind not in STATUSES:
            return None
        after = {} if self.retry_after is None else {"retry-after": f"{self.retry_after:g}"}
        return Refused(int(self.kind), self.message, after | self.headers)

    def fits(self, on: str, body: Body) -> bool:
        if self.on != on or self.times == 0 or (self.model and self.model != body.get("model")):
            return False
        return not self.match or ("messages" in body and self.match in words(body))


class Faults:
    def __init__(self) -> None:
        self.all: list[Fault] = []

    def add(self, described: list[Body]) -> None:
        known = {one.name for one in fields(Fault)}
        for one in described:
            if unknown := set(one) - known:
                raise Refused(400, f"a fault has no {', '.join(sorted(unknown))}")
        self.all += [Fault(**one) for one in described]

    def take(self, on: str, body: Body) -> Fault | None:
        """The first that fits, used up by one; those that still skip are counted down on the way."""
        for fault in self.all:
            if not fault.fits(on, body):
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            if fault.times is not None:
                fault.times -= 1
            return fault
        return None
