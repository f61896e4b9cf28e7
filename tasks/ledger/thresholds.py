"""The confidence from which a skill acts: what its agent says, until the review or a person knows better."""

from __future__ import annotations

import math
import time

from sqlalchemy import Connection, Row, insert, select, update

from tasks.ledger.journal import note
from tasks.ledger.tables import thresholds


def threshold_of(c: Connection, agent: str, skill: str, as_of: float = math.inf) -> float | None:
    """The threshold in force; None where the agent's own settings count."""
    row = _in_force(c, agent, skill, as_of)
    return None if row is None else float(row.threshold)


def set_threshold(
    c: Connection, agent: str, skill: str, threshold: float, who: str, why: str, review: int | None = None
) -> bool:
    """Let cases that are begun from now on be acted on from this confidence; False if this review said so before."""
    if review is not None:
        mine = (thresholds.c.review == review, thresholds.c.agent == agent, thresholds.c.skill == skill)
        if c.execute(select(thresholds.c.id).where(*mine).limit(1)).scalar() is not None:
            return False
    row = dict(agent=agent, skill=skill, threshold=threshold, review=review, who=who, why=why, at=time.time())
    c.execute(insert(thresholds).values(row))
    note(c, who, f"{skill} acts from {threshold:.2f} on: {why}"[:2000], agent=agent)
    return True


def revert_threshold(c: Connection, agent: str, skill: str, who: str) -> float | None:
    """Take the newest change back; the threshold that it had set, None if nothing was ever changed."""
    row = _in_force(c, agent, skill)
    if row is None:
        return None
    c.execute(update(thresholds).where(thresholds.c.id == row.id).values(reverted=True))
    note(c, who, f"took the threshold {row.threshold:.2f} of {skill} back", agent=agent)
    return float(row.threshold)


def _in_force(c: Connection, agent: str, skill: str, as_of: float = math.inf) -> Row[tuple[object, ...]] | None:
    mine = (thresholds.c.agent == agent, thresholds.c.skill == skill, ~thresholds.c.reverted, thresholds.c.at < as_of)
    return c.execute(select(thresholds).where(*mine).order_by(thresholds.c.id.desc()).limit(1)).one_or_none()
