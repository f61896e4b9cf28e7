"""What an agent knows: a company's approved answers, with examples of how people ask for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from pydantic import Field, ValidationError

from tasks import offline
from tasks.errors import BadInput
from tasks.records import Record
from tasks.redaction import redact

SHOWN = 3  # examples of each intent that a model is shown


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
    def shown(self) -> str:
        """What a model reads of it: every answer, with a few of its examples; the same text for the same knowledge.

        Examples are what customers wrote, so nothing private of theirs is shown, whatever an agent lets pass.
        """
        entries = [
            {"intent": one.intent, "title": one.title, "answer": one.answer, "examples": _shown(one)}
            for one in self.entries
        ]
        return json.dumps({"company": self.company, "entries": entries}, ensure_ascii=False)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """All that can be quoted of it."""
        return tuple(text for one in self.entries for text in (one.title, one.answer, *one.examples))

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


def _shown(entry: Entry) -> list[str]:
    return [redact(one) for one in entry.examples[:SHOWN]]


def read_knowledge(path: Path) -> Knowledge:
    """Load a knowledge base; BadInput that names the file and the field if it is broken."""
    try:
        return Knowledge.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as why:
        raise BadInput(f"The knowledge base {path} can not be read: {why}.") from why
    except (ValueError, ValidationError) as why:
        raise BadInput(f"The knowledge base {path} is broken: {why}. Mend it; no case was touched.") from why
