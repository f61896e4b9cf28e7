"""Earlier episodes of an alert: what was concluded, what people and later events said, how it ended."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from tasks.ledger.cases import load
from tasks.ledger.tables import cases, outcomes, signals, verdicts
from tasks.records import Case, Record


class Episode(Record):
    """One earlier case of the same thread, and what became of it."""

    case: int
    began: float
    """Seconds since 1970 in UTC."""
    kind: str = ""
    """`acted`, `handed_over`, `abstained`; empty if it is not concluded yet."""
    answer: str = ""
    right: bool | None = None
    """The newest word on it: a person's before a signal's; None if nobody said anything."""
    said: tuple[str, ...] = ()
    """What its source heard later: `resolved`, `came back`, `un-silenced`, `outlasted` ..."""
    resolved: float | None = None


def earlier_episodes(c: Connection, case: Case, limit: int) -> list[Episode]:
    """Cases of the same source and thread that came before this one, newest first."""
    mine = (cases.c.source == case.source, cases.c.thread == case.thread, cases.c.id < case.id)
    rows = c.execute(select(cases).where(*mine).order_by(cases.c.id.desc()).limit(limit)).all()
    ids, keys = [row.id for row in rows], {row.key: row.id for row in rows}
    newest = select(func.max(outcomes.c.id)).where(outcomes.c.case.in_(ids)).group_by(outcomes.c.case)
    ended = {one.case: one for one in c.execute(select(outcomes).where(outcomes.c.id.in_(newest))).all()}
    words: dict[int, tuple[int, bool]] = {}
    about = {one.id: one.case for one in ended.values()}
    for one in c.execute(select(verdicts).where(verdicts.c.outcome.in_(about)).order_by(verdicts.c.id)).all():
        rank = {"person": 2, "judge": 1}.get(one.source, 0)
        if rank >= words.get(about[one.outcome], (0, False))[0]:
            words[about[one.outcome]] = (rank, bool(one.right))
    heard: dict[int, list[tuple[str, float]]] = {}
    told = select(signals).where(signals.c.source == case.source, signals.c.key.in_(keys)).order_by(signals.c.at)
    for one in c.execute(told).all():
        heard.setdefault(keys[one.key], []).append((one.what, one.at))
    found = []
    for row in rows:
        end, said = ended.get(row.id), heard.get(row.id, [])
        found.append(
            Episode(
                case=row.id,
                began=load(row).arrived.timestamp(),
                kind=end.kind if end else "",
                answer=end.answer if end else "",
                right=words[row.id][1] if row.id in words else None,
                said=tuple(dict.fromkeys(what for what, _ in said)),
                resolved=max((at for what, at in said if what == "resolved"), default=None),
            )
        )
    return found
