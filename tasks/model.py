"""ask(): one question to a model, one checked answer; today the embedded model answers, with no key and no download."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, Field, ValidationError

from tasks import offline
from tasks.errors import BadInput
from tasks.records import Case, Draft, Reading, Record

T = TypeVar("T", Reading, Draft)


class Entry(Record):
    """One thing customers ask, with the answer that was approved for it."""

    intent: str = Field(pattern=r"^[a-z0-9_]{1,60}$")
    title: str
    answer: str = Field(min_length=20)
    examples: tuple[str, ...] = Field(min_length=3)


class Knowledge(Record):
    """What an agent knows: a company, its approved answers, and examples of mail that is none of its business."""

    company: str
    entries: tuple[Entry, ...] = Field(min_length=2)
    unrelated: tuple[str, ...] = ()

    @cached_property
    def by_intent(self) -> Mapping[str, Entry]:
        return {entry.intent: entry for entry in self.entries}

    @cached_property
    def examples(self) -> tuple[offline.Example, ...]:
        return tuple(
            offline.Example(text, entry.intent, f"knowledge/{entry.intent}#{number}")
            for entry in self.entries
            for number, text in enumerate(entry.examples, 1)
        )

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


def read_knowledge(path: Path) -> Knowledge:
    """Load a knowledge base; BadInput that names the file and the field if it is broken."""
    try:
        return Knowledge.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as why:
        raise BadInput(f"The knowledge base {path} can not be read: {why}.") from why
    except (ValueError, ValidationError) as why:
        raise BadInput(f"The knowledge base {path} is broken: {why}. Mend it; no case was touched.") from why


def learn(knowledge: Knowledge) -> None:
    """Prepare what ask() needs of a knowledge base before anybody asks; without it the first question does."""
    offline.learn(knowledge.examples, knowledge.unrelated)


async def ask(output: type[T], case: Case, knowledge: Knowledge, about: BaseModel | None = None) -> T:
    """Ask for a Reading of a case, or for a Draft about a Reading, from the knowledge alone.

    The embedded model chooses among the intents it was shown and quotes the approved answer of one; it writes nothing.
    """
    answer: Reading | Draft
    if output is Reading:
        memory = await offline.memory(knowledge.examples, knowledge.unrelated)
        answer = memory.decide(f"{case.subject}\n{case.text}")
    elif isinstance(about, Reading) and about.intent in knowledge.by_intent:
        entry = knowledge.by_intent[about.intent]
        answer = Draft(text=entry.answer, sources=(f"knowledge/{entry.intent}",))
    else:
        raise BadInput(f"Case {case.id}: there is no approved answer for {getattr(about, 'intent', about)!r}.")
    if not isinstance(answer, output):
        raise BadInput(f"The embedded model gives a Reading or a Draft, not a {output.__name__}.")
    return answer
