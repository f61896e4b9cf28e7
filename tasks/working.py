"""The case in hand: set by `each()`, seen by steps, tools and effects without being told."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field

from tasks.errors import BadInput
from tasks.lease import Lease
from tasks.ledger import Ledger
from tasks.ledger.cases import Work
from tasks.records import Policy


@dataclass
class Hand:
    """A begun case with the means to write under its fence."""

    work: Work
    ledger: Ledger
    lease: Lease
    skill: str
    version: str
    flow_run: str
    steps: dict[str, bytes] = field(default_factory=dict)
    replayed_keys: list[str] = field(default_factory=list)
    asking: set[str] = field(default_factory=set)
    """Keys of steps that have asked a model and are not stored yet."""

    @property
    def replayed(self) -> int:
        """Steps served from the ledger in this attempt."""
        return len(self.replayed_keys)


WORKING: ContextVar[Hand | None] = ContextVar("WORKING", default=None)


def in_hand(doing: str) -> Hand:
    """The case that this code works on; BadInput outside of `each()`."""
    hand = WORKING.get()
    if hand is None:
        raise BadInput(f"There is no case in hand to {doing}. Call this inside the function that you give to each().")
    return hand


def policy() -> Policy:
    """The thresholds and versions pinned for the case in hand."""
    return in_hand("look up its policy").work.policy
