"""What becomes of a case whose effect was denied, where its skill concludes nothing from that."""

from __future__ import annotations

from tasks.effects import perform
from tasks.errors import Denied
from tasks.records import Case, Effect, Outcome
from tasks.working import in_hand

HAND_OVER = "hand_over"


async def denied(case: Case, why: Denied) -> Outcome:
    """A person gets the case where the agent may hand it over without asking; otherwise it is let be."""
    agent = in_hand("conclude from a denial").work.agent
    if HAND_OVER not in agent.effects or HAND_OVER in agent.approvals:
        return Outcome(kind="abstained", answer="denied", note=str(why))
    head = f"Case {case.id} from {case.sender or 'an unknown sender'}."
    body = f"{head}\n{why}\n\nSee: python -m deployments why {case.id}\n"
    await perform(Effect(kind=HAND_OVER, subject=f"Denied: {case.subject[:120]}", body=body))
    return Outcome(kind="handed_over", answer="denied", note=str(why))
