"""Look into an alert, and call a person, silence it for a while, or leave a note."""

from __future__ import annotations

from prefect import flow, task

from skills import ONCE_PER_CASE, Case, CaseId, Outcome, Unusable, each, perform, policy
from skills.triage_incident.findings import Alert, Correlated, Gathered, Judgement, alert_of
from skills.triage_incident.investigation import by_claude
from skills.triage_incident.logistic import by_features
from skills.triage_incident.reading import look
from skills.triage_incident.weights import weigh
from tasks.channels.alertmanager import matchers_for
from tasks.errors import BadInput, BudgetReached, NotNow, Refused, Unavailable
from tasks.ledger.effects import kinds_wanted
from tasks.model import has_key
from tasks.records import Effect
from tasks.working import in_hand

EXCERPT, RUNBOOK = 1_000, 2_000  # characters of the alert's own words, and of the runbook
NOT_ASKED = (Unusable, Unavailable, NotNow, BudgetReached, BadInput)
"""What keeps Claude from concluding, a refused key too; an alert does not wait for any of it."""


@task(cache_policy=ONCE_PER_CASE, task_run_name="gather for case {case.id}")
async def gather(case: Case) -> Gathered:
    """What Alertmanager, Prometheus, the ledger and a runbook say now, and what could not be read."""
    return await look(case)


@task(cache_policy=ONCE_PER_CASE, task_run_name="correlate case {case.id}")
async def correlate(case: Case, found: Gathered) -> Correlated:
    """What the findings speak for, each with its weight."""
    return weigh(case, found)


@task(cache_policy=ONCE_PER_CASE, task_run_name="judge case {case.id}")
async def judge(case: Case, found: Gathered, said: Correlated, why: str) -> Judgement:
    """Whether a person is needed, by stated weights; `why` no model said it, if one was to."""
    judged = by_features(alert_of(case), found, said)
    return judged.model_copy(update={"summary": f"{judged.summary} {why}".strip()})


@task(cache_policy=ONCE_PER_CASE, task_run_name="keep case {case.id} quiet")
async def keep_quiet(case: Case, judged: Judgement) -> str:
    """Silence the alert or leave a note; why that was refused, if it was: then it stays so, whoever asks again."""
    try:
        await perform(_silence(case, judged) if judged.quiet == "silence" else _note(case, judged))
    except Refused as why:
        return str(why)[:500]
    return ""


async def triage(case: Case) -> Outcome:
    found = await gather(case)
    said = await correlate(case, found)
    judged = await _judged(case, found, said)
    if reason := await _why_a_person(case, judged):
        await perform(_page(case, judged, found, reason))
        return _outcome("handed_over", "page", judged, reason)
    if judged.needed:
        await perform(_page(case, judged, found, ""))
        return _outcome("acted", "page", judged, judged.summary)
    judged = judged.model_copy(update={"quiet": _allowed(judged)})
    if refused := await keep_quiet(case, judged):
        reason = f"nobody seems to be needed, but a {judged.quiet} was refused: {refused}"
        await perform(_page(case, judged, found, reason))
        return _outcome("handed_over", "page", judged, reason)
    return _outcome("acted", judged.quiet, judged, judged.summary)


async def _judged(case: Case, found: Gathered, said: Correlated) -> Judgement:
    """By Claude where it can be asked, else by stated weights."""
    why = ""
    if has_key() or in_hand("judge").work.agent.models:
        try:
            return await by_claude(case, alert_of(case), found, said)
        except NOT_ASKED as error:
            why = f"Claude did not conclude ({type(error).__name__})."
    return await judge(case, found, said, why)


async def _why_a_person(case: Case, judged: Judgement) -> str:
    """Why a person has to say what the agent can not; '' if it can."""
    hand = in_hand("decide")
    rehearsed = hand.work.dry_run
    wanted = await hand.ledger.read("see what was wanted", lambda c: kinds_wanted(c, case.id, rehearsed))
    if judged.confidence < policy().threshold:
        return f"the agent can not tell: its confidence {judged.confidence:.2f} is below {policy().threshold:.2f}"
    if not (judged.needed or _allowed(judged) in hand.work.agent.effects):
        return "nobody seems to be needed, but this agent may neither silence nor leave a note"
    if "page" in wanted and not judged.needed:
        return "an earlier attempt was about to call a person"  # whom nobody would tell otherwise
    return ""


def _allowed(judged: Judgement) -> str:
    """How the alert is kept quiet: as judged, or by a note where the agent may not silence."""
    effects = in_hand("decide").work.agent.effects
    return "silence" if judged.quiet == "silence" and "silence" in effects else "note"


def _outcome(kind: str, answer: str, judged: Judgement, note: str) -> Outcome:
    given = dict(kind=kind, answer=answer, confidence=judged.confidence, evidence=judged.evidence, note=note[:500])
    return Outcome.model_validate(given)


def _page(case: Case, judged: Judgement, found: Gathered, reason: str) -> Effect:
    parts = [f"Why you: {reason}." if reason else "", _told(case, judged)]
    if found.runbook:
        parts.append(f"Runbook:\n{found.runbook[:RUNBOOK]}")
    return Effect(kind="page", subject=_subject(case, judged), body=_joined(parts))


def _note(case: Case, judged: Judgement) -> Effect:
    return Effect(kind="note", subject=_subject(case, judged), body=_joined(["Nobody is called.", _told(case, judged)]))


def _silence(case: Case, judged: Judgement) -> Effect:
    # The alert's own labels, word for word: neither its text nor a model chooses what else becomes quiet.
    matchers = [one.model_dump() for one in matchers_for(alert_of(case).labels)]
    body = f"Case {case.id}: {judged.summary}"
    return Effect(kind="silence", body=body, data={"matchers": matchers, "minutes": judged.minutes})


def _subject(case: Case, judged: Judgement) -> str:
    return f"[{judged.severity}] {case.subject[:180]}"


def _told(case: Case, judged: Judgement) -> str:
    alert: Alert = alert_of(case)
    leant = "\n".join(f"- {one.source}: {one.text}" for one in judged.evidence) or "- nothing"
    labels = " ".join(f"{name}={value[:80]}" for name, value in sorted(alert.labels.items()))[:EXCERPT]
    quoted = "\n".join(f"> {line}" for line in case.text[:EXCERPT].splitlines())
    parts = [judged.summary, f"It leans on:\n{leant}", f"Since {case.arrived:%Y-%m-%d %H:%M:%S %Z}, {labels}", quoted]
    return _joined([*parts, f"Case {case.id}: `python -m deployments why {case.id}` tells all of it."])


def _joined(parts: list[str]) -> str:
    return "\n\n".join(one for one in parts if one)


@flow(name="triage_incident", version="1")
async def triage_incident(cases: list[CaseId]) -> None:
    """Look into an alert, and call a person, silence it for a while, or leave a note."""
    await each(cases, triage)
