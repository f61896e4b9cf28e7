"""Answer a customer's ticket from the knowledge base, or hand it to a person."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from prefect import flow, task

from skills import ONCE_PER_CASE, PAID, Case, CaseId, Outcome, Unusable, ask, each, perform, policy, reply_to
from tasks.knowledge import Knowledge, read_knowledge
from tasks.model import learn
from tasks.records import Draft, Effect, Reading

KNOWLEDGE = Path(__file__).with_name("knowledge.json")
LONGEST = 2500  # characters: a longer answer was not written for one customer
SHORTEST = 20
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
PROMISES = re.compile(
    r"\b(we guarantee|guaranteed? to|i promise|we promise|free of charge forever|full compensation|legally binding)\b",
    re.I,
)
ADDRESS = re.compile(r"[\w.+-]+@([\w-]+(?:\.[\w-]+)+)")
DIGITS = re.compile(r"(?:\d[ -]?){13,19}")


@lru_cache(maxsize=1)
def _knowledge() -> Knowledge:
    return read_knowledge(KNOWLEDGE)


def warm_up() -> None:
    """Learn the knowledge in the process that runs are forked from, so that no tick waits for it."""
    learn(_knowledge())


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
    text, against = written.text, []
    if not SHORTEST <= len(text) <= LONGEST:
        against.append(f"it has {len(text)} characters")
    if promise := PROMISES.search(text):
        against.append(f"it promises ({promise.group(0)!r})")
    own = {domain.lower() for entry in _knowledge().entries for domain in ADDRESS.findall(entry.answer)}
    if any(domain.lower() not in own for domain in ADDRESS.findall(text)):
        against.append("it shows an address")
    if any(_is_card(number) for number in DIGITS.findall(text)):
        against.append("it shows a card number")
    return against


def _is_card(number: str) -> bool:
    digits = [int(one) for one in number if one.isdigit()][::-1]
    doubled = [sum(divmod(2 * one, 10)) if place % 2 else one for place, one in enumerate(digits)]
    return sum(doubled) % 10 == 0


async def answer(case: Case) -> Outcome:
    if case.attributes.get("automatic"):
        return Outcome(
            kind="abstained", answer="automatic mail", note="Written by a program; answering makes mail loops."
        )
    try:
        reading = await read(case)
    except Unusable as why:
        return await hand_over(case, Reading(intent="unknown", confidence=0.0), str(why))
    if reading.confidence < policy().threshold or reading.intent not in _knowledge().by_intent:
        return await hand_over(case, reading, f"confidence {reading.confidence:.2f} is below {policy().threshold:.2f}")
    if not case.sender:
        return await hand_over(case, reading, "the mail has no address that an answer could go to")
    try:
        written = await draft(case, reading)
    except Unusable as why:
        return await hand_over(case, reading, str(why))
    if against := await check(case, written):
        return await hand_over(case, reading, "the draft did not pass: " + ", ".join(against))
    await perform(reply_to(case, written.text))
    return Outcome(kind="acted", answer=reading.intent, confidence=reading.confidence, evidence=reading.evidence)


async def hand_over(case: Case, reading: Reading, why: str) -> Outcome:
    """Give the case to a person, once, with what is known of it."""
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
