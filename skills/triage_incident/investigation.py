"""Lets Claude look into an alert with read-only tools, and keeps of its conclusion what stands on what it saw."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from skills.triage_incident.findings import Alert, Correlated, Gathered, Judgement, Severity
from skills.triage_incident.logistic import CITED, blind
from tasks.conversation import Limits, converse, heard
from tasks.model import show
from tasks.records import Case, Evidence
from tasks.redaction import redact
from tasks.tools import named
from tasks.working import in_hand

TOOLS = ("prometheus_range", "prometheus_now", "firing_alerts", "read_log")
LIMITS = Limits(turns=12, tokens=200_000, seconds=180)
QUOTED = 300  # characters of each piece of evidence
PROMPT = """
You are the first on call for a company's monitoring. You are given one alert, what was found out about it already, and
tools that only read. Find out whether a person has to be called now: somebody who is woken for nothing stops looking,
and somebody who is not called for a real incident finds out too late. In doubt, a person is needed.

Look at what the alert measures, how it came to where it is and whether it gets worse, at what else fires, at the logs,
and at what came of earlier episodes. A few good questions are enough: the answer is wanted within a minute or two.

Conclude with how sure you are that your answer is right: of the answers that you call 0.8 sure, one in five may be
wrong. As evidence quote word for word what you were given or what a tool told you, each with its source (such as
`prometheus_range` or the name of a fact): a conclusion that quotes nothing counts for nothing. `silence` is for an
alert that comes and goes by itself and needs nobody, `note` for everything else that needs nobody.
"""


class Quote(BaseModel):
    """Something that was seen."""

    source: str = Field(max_length=120)
    text: str = Field(max_length=1_000)
    weight: float = Field(ge=0, le=1)


class Conclusion(BaseModel):
    """Whether a person has to be called."""

    severity: Severity
    person_needed: bool
    confidence: float = Field(ge=0, le=1)
    otherwise: Literal["silence", "note"] = Field("note", description="If no person is needed.")
    summary: str = Field(max_length=600, description="What happens and why you conclude so, for whoever is called.")
    evidence: list[Quote] = Field(max_length=20)


async def by_claude(case: Case, alert: Alert, found: Gathered, said: Correlated) -> Judgement:
    """What Claude concludes. It raises as converse() does; what it may do is bounded by the facts, not by its words."""
    about: dict[str, Any] = {"alert": alert, "facts": said, "runbook": found.runbook, "expression": found.query}
    end = await converse(Conclusion, PROMPT, case=case, tools=named(TOOLS), limits=LIMITS, **about)
    evidence = _seen(end.evidence, show({"case": case, **about}, ()))
    sure = end.confidence if evidence else 0.0
    critical = alert.severity == "critical"
    return Judgement(
        severity="critical" if critical else end.severity,
        needed=end.person_needed or critical,
        confidence=min(sure, 0.5) if blind(found) else sure,
        quiet="silence" if end.otherwise == "silence" and said.quiet else "note",
        minutes=said.minutes,
        summary=" ".join(end.summary.split()),
        evidence=evidence,
    )


def _flat(text: str) -> str:
    # What was shown stands there as JSON, where quotes and angle brackets are written differently.
    return " ".join(text.replace("\\u003c", "<").replace('\\"', '"').replace("\\n", " ").split())


def _seen(quotes: list[Quote], given: str) -> tuple[Evidence, ...]:
    """The quotes that stand where the model could have read them, with or without what is private."""
    hidden = in_hand("read what a model says").work.agent.redact
    shown = "\n".join((given, *heard()))
    texts = (_flat(shown), _flat(redact(shown, hidden)))
    kept = []
    for one in quotes:
        quote = _flat(one.text)[:QUOTED]
        if len(quote) > 2 and any(quote in text for text in texts):
            kept.append(Evidence(source=" ".join(one.source.split()), text=quote, weight=one.weight))
    return tuple(kept[:CITED])
