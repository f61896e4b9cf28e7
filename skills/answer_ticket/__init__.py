"""Answer a customer's ticket from the knowledge base, or hand it to a person."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from prefect import flow, task

from skills import ONCE_PER_CASE, PAID, Case, CaseId, Outcome, Unusable, ask, each, perform, policy, reply_to
from tasks.knowledge import Knowledge, read_knowledge
from tasks.model import learn
from tasks.offline import UNKNOWN
from tasks.outgoing import against
from tasks.records import Draft, Effect, Evidence, Reading
from tasks.redaction import redact
from tasks.working import in_hand

KNOWLEDGE = Path(__file__).with_name("knowledge.json")
EVIDENCE = 5  # pieces that a reading may lean on
QUOTED = 300  # characters of each
SOURCE = re.compile(r"knowledge/([a-z0-9_]{1,60})(?:#\d{1,6})?")
EXCERPT = 1500  # characters of the ticket that the person who takes over sees at once
READ = """
You read the mail of a company's support inbox. Say which of the intents in the knowledge base the mail is about, or
`unknown` if it is about none of them or about several. Be honest about how sure you are: of the mails that you call
0.8 sure, one in five may be wrong. As evidence quote the words of the mail that decide, and name the entries
(knowledge/INTENT) that say so.
"""
WRITE = """
You write the answer to a customer's mail. It says what the approved answer of the intent in <reading> says, fitted to
what this customer asked: no promise, fact, number, link or address that is not in that answer. Plain text, the body
alone (greeting and signature are added), in the customer's language. As sources name the entries (knowledge/INTENT)
that you used.
"""


@lru_cache(maxsize=1)
def _knowledge() -> Knowledge:
    return read_knowledge(KNOWLEDGE)


def _flat(text: str) -> str:
    return " ".join(text.split())


def knowledge() -> Knowledge:
    """What it reads by, for a review that replays what it could learn."""
    return _knowledge()


def warm_up() -> None:
    """Learn the knowledge in the process that runs are forked from, so that no tick waits for it."""
    learn(_knowledge(), "answer_ticket")


@task(cache_policy=ONCE_PER_CASE, task_run_name="read case {case.id}", **PAID)
async def read(case: Case) -> Reading:
    """What the ticket is about, how sure that is, and which examples say so."""
    return await ask(Reading, READ, knowledge=_knowledge(), case=case)


@task(cache_policy=ONCE_PER_CASE, task_run_name="draft case {case.id}", **PAID)
async def draft(case: Case, reading: Reading) -> Draft:
    """A greeting, an answer that stands on the approved one, and a signature."""
    found = await ask(Draft, WRITE, knowledge=_knowledge(), case=case, reading=reading)
    text = f"Hello,\n\n{found.text}\n\nKind regards\n{_knowledge().company} support"
    return found.model_copy(update={"text": text})


@task(cache_policy=ONCE_PER_CASE, task_run_name="check case {case.id}")
async def check(case: Case, written: Draft) -> list[str]:
    """What speaks against sending it; empty if nothing does."""
    approved = [entry.answer for entry in _knowledge().entries]
    return against(written.text, approved=approved, prompt=(READ, WRITE))


async def answer(case: Case) -> Outcome:
    if case.attributes.get("automatic"):
        return Outcome(
            kind="abstained", answer="automatic mail", note="Written by a program; answering makes mail loops."
        )
    try:
        reading = _grounded(case, await read(case))
    except Unusable as why:
        return await hand_over(case, Reading(intent=UNKNOWN, confidence=0.0), str(why))
    if reading.intent not in _knowledge().by_intent:
        return await hand_over(case, reading, "it fits no intent")
    if not policy().acts_on(reading.intent, reading.confidence):
        below = f"confidence {reading.confidence:.2f} is below {policy().threshold:.2f}"
        ruled = f"a rule leaves {reading.intent} to people"
        return await hand_over(case, reading, ruled if reading.intent in policy().held else below)
    if not case.sender:
        return await hand_over(case, reading, "the mail has no address that an answer could go to")
    try:
        written = await draft(case, reading)
    except Unusable as why:
        return await hand_over(case, reading, str(why))
    if reasons := await check(case, written):
        return await hand_over(case, reading, "the draft did not pass: " + ", ".join(reasons))
    await perform(reply_to(case, written.text))
    return Outcome(kind="acted", answer=reading.intent, confidence=reading.confidence, evidence=reading.evidence)


def _grounded(case: Case, reading: Reading) -> Reading:
    """The reading without what a model can have been made to say: an intent nobody knows, quotes that stand nowhere."""
    known = _knowledge()
    told = _flat("\n".join((case.subject, case.text, *known.texts)))
    kept: list[Evidence] = []
    hidden = in_hand("read what a model says").work.agent.redact
    seen = _flat(redact(f"{case.subject}\n{case.text}", hidden)) if reading.evidence else ""
    for one in reading.evidence[:EVIDENCE]:
        quote = _flat(one.text)[:QUOTED]
        if quote and (quote in told or quote in seen):
            named = SOURCE.fullmatch(one.source)
            source = one.source if named and named[1] in known.by_intent else "the mail"
            kept.append(Evidence(source=source, text=quote, weight=one.weight))
    intent = reading.intent if reading.intent in known.by_intent else UNKNOWN
    return Reading(intent=intent, confidence=reading.confidence, evidence=tuple(kept))


async def hand_over(case: Case, reading: Reading, why: str) -> Outcome:
    """Give the case to a person, once, with what is known of it."""
    why = _flat(redact(why))  # an error of a model's answer repeats what is in it
    leaning = "\n".join(f"  {one.weight:.2f}  {one.source}: {one.text}" for one in reading.evidence) or "  none"
    quoted = "\n".join(f"> {line}" for line in case.text[:EXCERPT].splitlines()) or "> (empty)"
    body = (
        f"Case {case.id} from {case.sender or 'an unknown sender'}, arrived {case.arrived:%d %b %Y %H:%M} UTC.\n"
        f"Why you: {why}.\nBest guess: {reading.intent} ({reading.confidence:.2f}), leaning on\n{leaning}\n\n"
        f"Subject: {case.subject}\n{quoted}\n"
    )
    origin = str(case.attributes.get("message_id") or "")
    await perform(Effect(kind="hand_over", subject=f"[case {case.id}] {case.subject}", body=body, in_reply_to=origin))
    return Outcome(
        kind="handed_over", answer=reading.intent, confidence=reading.confidence, evidence=reading.evidence, note=why
    )


@flow(name="answer_ticket", version="1", description=__doc__)
async def answer_ticket(cases: list[CaseId]) -> None:
    """Answer a customer's ticket from the knowledge base, or hand it to a person."""
    _knowledge()  # a broken one fails here, before any case is begun and blamed for it
    await each(cases, answer)
