"""A brain that answers for answer_ticket from what it is shown: it counts common words, as a very small model would."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

from tests.claude.errors import Body

WORD = re.compile(r"[^\W\d_]{3,}")


def answer(body: Body) -> dict[str, Any]:
    """A Reading where evidence is asked for, else a Draft of the intent that the reading names."""
    told = "\n".join(block["text"] for block in body["system"])
    known = json.loads(_between(told, "knowledge"))["entries"]
    asked = body["messages"][0]["content"]
    asked = asked if isinstance(asked, str) else "\n".join(block.get("text", "") for block in asked)
    if "<reading>" in asked:
        intent = json.loads(_between(asked, "reading"))["intent"]
        entry = next(one for one in known if one["intent"] == intent)
        return {"text": entry["answer"], "sources": [f"knowledge/{intent}"]}
    case = json.loads(_between(asked, "case"))
    return _reading(f"{case['subject']} {case['text']}", known)


def _between(text: str, tag: str) -> str:
    return text.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]


def _reading(text: str, known: list[dict[str, Any]]) -> dict[str, Any]:
    said = set(WORD.findall(text.lower()))
    spoken = {one["intent"]: set(WORD.findall(" ".join([one["title"], *one["examples"]]).lower())) for one in known}
    common = Counter(word for words in spoken.values() for word in words)
    score = {
        intent: sum(1 / common[word] for word in said & words) / math.sqrt(len(words))
        for intent, words in spoken.items()
    }
    (best, first), (_, second) = Counter(score).most_common(2)
    sure = 0.0 if not first else min(0.95, 0.5 + 0.45 * (first - second) / first)
    quote = {"source": f"knowledge/{best}", "text": text[:80], "weight": round(sure, 2)}
    return {"intent": best, "confidence": round(sure, 2), "evidence": [quote]}
