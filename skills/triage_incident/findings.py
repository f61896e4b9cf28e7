"""What is found out about an alert, step by step: gathered, correlated, judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from tasks.ledger.episodes import Episode
from tasks.prometheus import Firing, Series
from tasks.records import Case, Evidence, Record

Severity = Literal["critical", "high", "medium", "low"]
SEVERITIES: Mapping[str, Severity] = {
    **dict.fromkeys(("critical", "crit", "emergency", "fatal", "disaster", "p1", "sev1"), "critical"),
    **dict.fromkeys(("page", "high", "error", "major", "p2", "sev2"), "high"),
    **dict.fromkeys(("info", "low", "none", "debug", "notice", "p4", "p5", "sev4", "sev5"), "low"),
}
LABELS = TypeAdapter(dict[str, str])


class Alert(Record):
    """The alert of a case, of whose text nothing is believed and of whose labels nothing is changed."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str] = {}
    generator_url: str = ""
    flaps: int = Field(default=0, ge=0)
    group: int = Field(default=0, ge=0, description="How many alerts the case stands for, if it is a group's.")

    @property
    def name(self) -> str:
        return self.labels.get("alertname", "")

    @property
    def severity(self) -> Severity:
        """By its label; one that says nothing known is in the middle."""
        return SEVERITIES.get(self.labels.get("severity", "").strip().lower(), "medium")


def alert_of(case: Case) -> Alert:
    """What the source says of the alert; what has another shape than it should is left out."""
    given = case.attributes
    group = given.get("group")
    size = group.get("size") if isinstance(group, Mapping) else 0
    return Alert(
        labels=_labels(given.get("labels")),
        annotations=_labels(given.get("annotations")),
        generator_url=str(given.get("generator_url") or "")[:10_000],
        flaps=_count(given.get("flaps")),
        group=_count(size),
    )


def _labels(given: JsonValue) -> dict[str, str]:
    try:
        return LABELS.validate_python(given or {})
    except ValidationError:
        return {}


def _count(given: JsonValue) -> int:
    return given if isinstance(given, int) and 0 <= given < 1_000_000_000 else 0


class Limit(Record):
    """An alert's expression, split into what is measured and what it must not pass."""

    measured: str
    how: Literal[">", ">=", "<", "<=", "==", "!="]
    threshold: float

    def beyond(self, value: float) -> bool:
        """Whether a value is where the alert fires."""
        limit = self.threshold
        return {
            ">": value > limit,
            ">=": value >= limit,
            "<": value < limit,
            "<=": value <= limit,
            "==": value == limit,
            "!=": value != limit,
        }[self.how]


class Gathered(Record):
    """What could be read about an alert at one moment, and what could not."""

    at: float = Field(description="Seconds since 1970.")
    query: str = Field(default="", description="The alert's expression.")
    limit: Limit | None = None
    near: Series | None = Field(default=None, description="What is measured, from shortly before the start.")
    far: Series | None = Field(default=None, description="The same over hours, coarser.")
    fired: Series | None = Field(default=None, description="When just this alert fired in those hours.")
    related: tuple[Firing, ...] = ()
    firing: bool | None = Field(default=None, description="Whether it still fires; None: nobody could say.")
    un_silenced: bool = Field(default=False, description="A person ended a silence of ours before its time.")
    earlier: tuple[Episode, ...] = ()
    runbook: str = ""
    blind: tuple[str, ...] = Field(default=(), description="What could not be read, and why.")
    watched: bool = Field(default=False, description="Whether the agent has a Prometheus to ask.")


class Fact(Record):
    """One thing that was found out, and how far it speaks for calling a person."""

    source: str
    text: str
    weight: float = Field(default=0.0, description="Added to the log-odds that a person is needed.")


class Correlated(Record):
    """What the findings say together."""

    facts: tuple[Fact, ...]
    nuisance: bool = Field(description="It came and went by itself before, and nobody was needed.")
    quiet: bool = Field(description="Whether it may be silenced at all.")
    minutes: int = Field(description="How long a silence of it would be.")


class Judgement(Record):
    """What to do about an alert, and what that leans on."""

    severity: Severity
    needed: bool = Field(description="Whether a person is needed.")
    confidence: float = Field(ge=0, le=1)
    quiet: Literal["silence", "note"] = "note"
    minutes: int = Field(default=0, ge=0)
    summary: str
    evidence: tuple[Evidence, ...]
