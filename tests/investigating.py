"""A brain for the fake of Claude that looks into an alert as its text says, a word for each turn."""

from __future__ import annotations

import json
from typing import Any

from tests.claude.brain import Call

TOOLS = {
    "range": Call("prometheus_range", {"query": "queue_depth", "minutes_before": 10}),
    "now": Call("prometheus_now", {"query": 'queue_depth{service="mail"}'}),
    "alerts": Call("firing_alerts", {"label": "service", "value": "mail"}),
    "log": Call("read_log", {"name": "app.log", "contains": "error"}),
    "passwords": Call("read_log", {"name": "../../etc/passwd"}),
    "bomb": Call("prometheus_range", {"query": "queue_depth", "minutes_before": 10_000_000}),
}


def brain(body: dict[str, Any]) -> Any:
    """The tools above; `page`, `quiet` and `unsure` conclude with a quote of the last result, `lie` with none."""
    first = body["messages"][0]["content"]
    text = first if isinstance(first, str) else first[0]["text"]
    plan = json.loads(text.partition("<case>")[2].partition("</case>")[0])["text"].split()
    turn = sum(one["role"] == "assistant" for one in body["messages"])
    word = plan[min(turn, len(plan) - 1)]
    if word in TOOLS:
        return TOOLS[word]
    seen = [one["content"] for one in body["messages"][-1]["content"] if one["type"] == "tool_result"] if turn else []
    quote = seen[-1][:60] if seen else "its severity is 'warning'"
    given = {"page": (True, 0.9), "lie": (True, 0.99), "quiet": (False, 0.95), "unsure": (False, 0.3)}[word]
    return Call(
        "conclude",
        {
            "severity": "high",
            "person_needed": given[0],
            "confidence": given[1],
            "otherwise": "silence",
            "summary": "The queue is not worked.",
            "evidence": [{"source": "what was seen", "text": "a fire" if word == "lie" else quote, "weight": 0.8}],
        },
    )
