"""Tools for a support inbox: what the customer wrote before, an answer, a person."""

from __future__ import annotations

from typing import Literal

from tasks.conversation import told
from tasks.effects import perform, reply_to
from tasks.errors import BadInput
from tasks.ledger.senders import earlier_of_sender
from tasks.outgoing import against
from tasks.records import Effect, Record
from tasks.working import in_hand

EARLIER = 5
EXCERPT = 600


class Earlier(Record):
    """A mail that this customer wrote before, and what came of it."""

    arrived: str
    subject: str
    text: str
    became: str


async def earlier_mail() -> list[Earlier]:
    """Read what this customer wrote before, newest first, and what came of it. Shows nobody else's mail."""
    hand = in_hand("look for earlier mail")
    case = hand.work.case
    if not case.sender:
        return []
    rows = await hand.ledger.read("read earlier mail", lambda c: earlier_of_sender(c, case, EARLIER))
    return [
        Earlier(arrived=f"{one.arrived:%Y-%m-%d}", subject=one.subject, text=one.text[:EXCERPT], became=became)
        for one, became in rows
    ]


async def reply(text: str) -> str:
    """Send the customer an answer: plain text with greeting and signature. It goes out once, for good."""
    prompt, knowledge = told()
    approved = [one.answer for one in knowledge.entries] if knowledge else []
    if reasons := against(text, approved=approved, prompt=prompt):
        raise BadInput(f"Not sent: {', '.join(reasons)}. Write it differently, or hand the case over.")
    receipt = await perform(reply_to(in_hand("reply").work.case, text))
    return "Rehearsed: it would have been sent." if receipt.rehearsed else "Sent."


async def hand_over(summary: str, urgency: Literal["low", "normal", "high"], draft: str = "") -> str:
    """Give the case to a person: what it is about, what you found, and, if you can, a draft of the answer."""
    case = in_hand("hand over").work.case
    quoted = "\n".join(f"> {line}" for line in case.text[:EXCERPT].splitlines()) or "> (empty)"
    drafted = f"\nDraft of an answer:\n\n{draft}\n" if draft else ""
    head = f"Case {case.id} from {case.sender or 'an unknown sender'}, urgency {urgency}."
    body = f"{head}\n\n{summary}\n{drafted}\n{quoted}\n"
    receipt = await perform(Effect(kind="hand_over", subject=f"[{urgency}] {case.subject[:120]}", body=body))
    return "Rehearsed: a person would have it now." if receipt.rehearsed else "A person has it now."
