"""The frozen shapes that travel between rooms; imports nothing of ours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

CaseId = int

EffectKind = str
"""What is done to the world, in one word: `reply`, `hand_over`, `page` ..."""

Private = Literal["card", "key", "address", "account", "phone"]
"""What can be taken out of a text before a model provider reads it."""


class Record(BaseModel):
    """A shape that is persisted: frozen, and strict about names it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Arrival(Record):
    """One piece of work as a source saw it, before the ledger knows it."""

    marker: str = Field(description="What the source itself calls it (a file name, a UID): spares reading it twice.")
    key: str = Field(description="Stable identity in the source, the same however often it is polled.")
    thread: str = Field(description="Conversation; cases of one thread are worked in order, never side by side.")
    sender: str = Field(description="The one address an answer may go to; empty if there is none that can be trusted.")
    subject: str
    text: str
    arrived: datetime = Field(description="Aware; when the outside says it arrived.")
    attributes: Mapping[str, JsonValue] = Field(default_factory=dict, description="What only this source knows.")


class Unreadable(Record):
    """Something in a source that can not become a case; reported, left where it is, tried again."""

    marker: str
    why: str


class Note(Record):
    """What a source wants to find again at its next poll."""

    name: str
    value: JsonValue = Field(description="None forgets it.")


class Signal(Record):
    """What a source heard later about a case that it brought."""

    key: str = Field(description="The case's key in this source.")
    what: str = Field(max_length=80, description="In a word or two: `resolved`, `came back` ...")
    right: bool | None = Field(description="Whether acting on the case's answer was right, if this says so.")
    at: AwareDatetime
    why: str = ""


class Case(Record):
    """One piece of work; carries no threshold, attempt or fence, so that step keys stay stable."""

    id: CaseId
    agent: str
    source: str
    key: str
    thread: str
    sender: str
    subject: str
    text: str
    arrived: datetime
    attributes: Mapping[str, JsonValue] = Field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of what a step may depend on: a large body is hashed once, not for every step."""
        kept = self.model_dump(mode="json", include=set(FINGERPRINTED))
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:32]


FINGERPRINTED = ("source", "key", "thread", "sender", "subject", "text", "arrived", "attributes")
NOT_FINGERPRINTED = {
    "id": "stands in the step key by itself",
    "agent": "the same mail answered under a renamed agent is the same work",
}


class Effect(Record):
    """A change to the outside world that a skill wants; `perform()` decides whether and how often it happens."""

    kind: EffectKind
    to: str = Field(default="", description="One address for kinds that go to a customer; empty otherwise.")
    subject: str = ""
    body: str
    in_reply_to: str = Field(default="", description="Message-ID of the mail that this answers.")
    references: tuple[str, ...] = Field(default=(), description="Message-IDs of the thread so far, oldest first.")
    data: Mapping[str, JsonValue] = Field(
        default_factory=dict, description="What only its channel understands, such as the matchers of a silence."
    )


class Receipt(Record):
    """What a channel says about an effect that reached the outside."""

    channel: str = Field(description="URL of the channel, without secrets.")
    reference: str = Field(description="What the outside calls it, such as a Message-ID.")
    at: datetime
    found: bool = Field(default=False, description="Found outside after a crash rather than confirmed by the sender.")
    rehearsed: bool = Field(default=False, description="Nothing left: the agent is in dry run.")


class Evidence(Record):
    """One piece a conclusion leans on: a known example, a verified past case, a line of the ticket."""

    source: str = Field(description="Where it stands, such as `knowledge/refunds#2` or `case/17`.")
    text: str
    weight: float = Field(ge=0, le=1)


class Reading(Record):
    """What a ticket is about, how sure that is, and why."""

    intent: str = Field(description="One of the intents offered, or `unknown`.")
    confidence: float = Field(ge=0, le=1, description="Calibrated probability that the intent is right.")
    evidence: tuple[Evidence, ...] = ()


class Draft(Record):
    """A text for the customer, not yet checked."""

    text: str
    sources: tuple[str, ...] = Field(default=(), description="Knowledge entries it was drawn from.")


class Usage(Record):
    """The tokens of one model response, each counted in one place only."""

    input_tokens: int = Field(default=0, ge=0, description="Neither written to a cache nor read from one.")
    output_tokens: int = Field(default=0, ge=0)
    cache_write_5m: int = Field(default=0, ge=0)
    cache_write_1h: int = Field(default=0, ge=0)
    cache_read: int = Field(default=0, ge=0)

    @property
    def prompt(self) -> int:
        """All that the model read."""
        return self.input_tokens + self.cache_write_5m + self.cache_write_1h + self.cache_read


class Rate(Record):
    """What a provider takes in a minute from one key for one model; None where that has no limit."""

    requests_per_minute: int | None = Field(default=None, gt=0)
    tokens_per_minute: int | None = Field(default=None, gt=0, description="Read without a cache, and written.")

    @property
    def limited(self) -> bool:
        """Whether there is anything to keep to."""
        return self.requests_per_minute is not None or self.tokens_per_minute is not None


class Replay(Record):
    """What a proposal does to held-out cases whose answer people told: they were read without it and with it."""

    held_out: int
    right_before: int
    right_after: int
    gained: int = Field(description="Wrong before, right after.")
    lost: int = Field(description="Right before, wrong after.")
    p: float = Field(description="The chance of so many gained, or more, if gaining were no likelier than losing.")
    difference: float | None = Field(description="Of the shares that are right, after less before; None: no case.")
    low: float
    high: float

    def __str__(self) -> str:
        if self.difference is None:
            return "no held-out case has a label yet"
        rates = f"{self.difference:+.1%} ({self.low:+.1%} to {self.high:+.1%})"
        return (
            f"of {self.held_out} held-out cases {self.right_after} are read rightly with it and {self.right_before} "
            f"without, {rates}; {self.gained} gained, {self.lost} lost, p = {self.p:.3f}"
        )


class Outcome(Record):
    """What a skill concluded about a case."""

    kind: Literal["acted", "handed_over", "abstained"]
    answer: str = Field(default="", description="The intent or conclusion, one short line.")
    confidence: float | None = Field(default=None, ge=0, le=1)
    evidence: tuple[Evidence, ...] = ()
    note: str = Field(default="", description="One sentence for people.")


class Routed(Record):
    """Another skill shall work the case; nothing was concluded about it yet."""

    skill: str
    why: str = ""


class Policy(Record):
    """What a case works under, pinned when it is first begun."""

    threshold: float = Field(default=0.6, ge=0, le=1)
    versions: Mapping[str, str] = Field(default_factory=dict)
    lessons: int = Field(default=0, ge=0, description="The last one that it knows; none that came later.")
    held: tuple[str, ...] = Field(default=(), description="Answers that a rule leaves to people, however sure.")

    def acts_on(self, answer: str, confidence: float = 1.0) -> bool:
        """Whether a case may be acted on that was read so; else it is handed over."""
        return confidence >= self.threshold and answer not in self.held


class Budget(BaseModel):
    """What an agent may spend on models. A call that could pass a limit is not made; its case waits."""

    model_config = ConfigDict(extra="forbid")

    usd_per_day: float | None = Field(default=None, ge=0, description="UTC days.")
    tokens_per_day: int | None = Field(default=None, ge=0)
    usd_per_case: float | None = Field(default=None, ge=0)
    tokens_per_case: int | None = Field(default=None, ge=0)
    usd_per_day_of_skill: dict[str, float] = Field(default_factory=dict, description="By skill.")


class Approval(BaseModel):
    """How an effect of a kind waits for a person before it may leave."""

    model_config = ConfigDict(extra="forbid")
    hours: float = Field(default=24, gt=0, le=8_760, description="How long it waits for somebody's word.")
    then: Literal["deny", "escalate"] = Field(default="deny", description="escalate: people are told again, it waits.")
    show: bool = Field(default=False, description="Show its words in Prefect, which keeps them; not customers' words.")


class Agent(BaseModel):
    """An agent: where its work comes from, what it can do, what it may do. Shown as a form in Prefect's UI."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        default="",
        pattern=r"^[a-z0-9-]{0,40}$",
        description="Lower-case letters, digits and dashes. Empty: the deployment's name.",
        json_schema_extra={"position": 0},
    )
    source: str = Field(
        description="Where cases come from, such as `maildir:///srv/support/inbox`.",
        json_schema_extra={"position": 1},
    )
    skills: list[str] = Field(
        min_length=1, description="Modules in `skills/` this agent may use.", json_schema_extra={"position": 2}
    )
    effects: dict[EffectKind, str] = Field(
        default_factory=dict,
        description="Allow-list: each kind of effect with the channel URL it goes out through.",
        json_schema_extra={"position": 3},
    )
    address: str = Field(
        default="support@localhost",
        description="The address this agent writes from.",
        json_schema_extra={"position": 4},
    )
    threshold: float = Field(
        default=0.6, ge=0, le=1, description="Act at or above this confidence.", json_schema_extra={"position": 5}
    )
    concurrency: int = Field(
        default=8, ge=1, le=64, description="Cases worked at once.", json_schema_extra={"position": 6}
    )
    batch: int = Field(
        default=200, ge=1, le=2000, description="Cases handed to a skill in one run.", json_schema_extra={"position": 7}
    )
    case_seconds: int = Field(
        default=900,
        ge=1,
        description="A case that takes longer is ended and tried again, so that a hung one is not kept alive.",
        json_schema_extra={"position": 8},
    )
    models: dict[str, list[str]] = Field(
        default_factory=dict,
        description="Models in the order in which they are tried, by `skill.step`, `skill` or `any`.",
        json_schema_extra={"position": 9},
    )
    budget: Budget = Field(
        default_factory=Budget, description="Limits on what models may cost.", json_schema_extra={"position": 10}
    )
    redact: list[Private] = Field(
        default=list(get_args(Private)),
        description="What is taken out of a text before a model provider reads it; the case itself keeps it.",
        json_schema_extra={"position": 11},
    )
    approvals: dict[EffectKind, Approval] = Field(
        default_factory=dict, description="Kinds that wait for a person's word.", json_schema_extra={"position": 12}
    )
