"""What a person may ask for: work a case again, release it from quarantine, say what became of an effect."""

from __future__ import annotations

from sqlalchemy import Connection, func, select, update

from tasks.errors import BadInput
from tasks.ledger.calls import Place, forget_answers, today, top_up
from tasks.ledger.effects import resolve_unknown
from tasks.ledger.journal import note
from tasks.ledger.tables import SHADOW, agents, cases, effects, outcomes, steps
from tasks.prices import NANO
from tasks.records import CaseId

_FRESH = dict(state="open", reason="", errors=0, deaths=0, suspect=False, not_before=0.0, wants=0, wants_tokens=0)


def redo(c: Connection, case: CaseId, who: str, resend: bool = False) -> None:
    """Work a case afresh: its steps run again. Effects that are out stay out and are not repeated, unless `resend`."""
    row = c.execute(select(cases).where(cases.c.id == case).with_for_update()).one_or_none()
    if row is None:
        raise BadInput(f"There is no case {case}. `doctor` lists stuck ones, a tick's table the rest.")
    if row.state == "working":
        raise BadInput(f"Case {case} is being worked right now. Wait until it is settled.")
    # Afresh, so that nothing is missed any more: steps whose rows were lost are paid for again, as was asked.
    there = c.execute(select(func.count()).where(steps.c.case == case)).scalar_one()
    values = dict(_FRESH, take=row.take + 1, policy="", resend=row.resend + (1 if resend else 0), stored=there)
    c.execute(update(cases).where(cases.c.id == case).values(values))
    denied = (effects.c.case == case, effects.c.state == "denied")  # whoever asks for it may think otherwise by now
    c.execute(update(effects).where(*denied).values(state="intended", why=""))
    note(c, who, "asked for it to be worked again" + (", and its effects repeated" if resend else ""), case=case)


def redo_rehearsed(c: Connection, since: float, who: str) -> list[CaseId]:
    """Make the cases that were only rehearsed since then live: finished steps are kept, effects happen for real."""
    found = (
        select(cases.c.id, outcomes.c.rehearsed)
        .join(outcomes, outcomes.c.case == cases.c.id)
        .where(cases.c.state == "settled", outcomes.c.at >= since, ~cases.c.source.startswith(SHADOW))
        .order_by(cases.c.id, outcomes.c.id)
    )
    last = {row.id: row.rehearsed for row in c.execute(found)}
    ids = [case for case, rehearsed in last.items() if rehearsed]
    for case in ids:
        c.execute(update(cases).where(cases.c.id == case).values(_FRESH))
        note(c, who, "made live after its rehearsal", case=case)
    return ids


def release(c: Connection, case: CaseId, who: str, why: str = "") -> bool:
    """Give a quarantined or parked case another chance, its finished steps kept; False if it is neither."""
    if not _opened(c, case):
        return False
    forget_answers(c, case)  # or a step that failed by what a model answered would fail by it again
    note(c, who, f"released: {why}" if why else "released", case=case)
    return True


def _opened(c: Connection, case: CaseId) -> bool:
    waiting = (cases.c.id == case, cases.c.state.in_(("quarantined", "parked")))
    return c.execute(update(cases).where(*waiting).values(_FRESH)).rowcount == 1


def add_to_limit(
    c: Connection, agent: str, usd: float, tokens: int, skill: str, case: CaseId, who: str, why: str = ""
) -> bool:
    """Let an agent spend more today, or one of its skills, or a case of its; False if there is no such agent."""
    if c.execute(select(agents.c.name).where(agents.c.name == agent)).scalar() is None:
        return False
    place: Place = ("agent", agent, today())
    if skill:
        place = ("skill", f"{agent}/{skill}", today())
    if case:
        place = ("case", str(case), "")
    top_up(c, place, round(usd * NANO), tokens)
    told = f"added {usd:g} USD and {tokens} tokens to the limit of {place[0]} {place[1]!r}{': ' if why else ''}{why}"
    note(c, who, told, agent=agent, case=case or None)
    return True


def resolve(c: Connection, case: CaseId, sent: bool, who: str) -> int:
    """A person looked outside: the case's unknown effects were sent, or were not. Returns how many that settled."""
    found = select(effects.c.key).where(effects.c.case == case, effects.c.state == "unknown")
    settled = sum(resolve_unknown(c, key, sent, who) for key in c.execute(found).scalars().all())
    if settled:
        note(c, who, f"said that {settled} effect(s) {'were' if sent else 'were not'} sent", case=case)
        _opened(c, case)
    return settled
