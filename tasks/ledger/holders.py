"""Who works, whether they still live, and what becomes of their cases when they do not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from tasks.ledger.calls import lose_calls_of
from tasks.ledger.releases import retire_shadow
from tasks.ledger.tables import (
    SHADOW,
    agents,
    attempts,
    cases,
    effects,
    holders,
    journal,
    not_ended,
    on_their_way,
    sightings,
    steps,
)
from tasks.process import Process, is_gone, make_gone, this_boot

BEAT_SECONDS = 2.0
LEASE_SECONDS = 20.0  # without a new beat for so long, by the observer's own clock, a holder has lapsed
CONFIRM_SECONDS = 5.0  # and still none so much later, seen by the same process while the ledger took writes
PROVED = ("left", "stopped", "dead")  # ended so that nothing more can come from it
BLAMED = ("dead", "lapsed")  # ended by nobody's wish: what was in hand may be the cause
DEATHS = 3  # at the same point of the same case, before it is quarantined


def register(c: Connection, holder: str, who: Process, flow_run: str) -> None:
    """Enter a process that is about to hold leases."""
    c.execute(insert(holders).values(id=holder, flow_run=flow_run, since=time.time(), **who._asdict()))


def beat(c: Connection, holder: str) -> bool:
    """Say «I live»; False when the others have given this holder up."""
    found = c.execute(
        update(holders).where(holders.c.id == holder, holders.c.ended == "").values(beat=holders.c.beat + 1)
    )
    return found.rowcount == 1


def leave(c: Connection, holder: str) -> None:
    """End a holder that finished by itself; whatever it still holds goes back without blame."""
    _end(c, holder, "left")


def process_of(row: Row[tuple[object, ...]]) -> Process:
    """The process behind a row of `holders`."""
    return Process(row.machine, row.boot, row.space, row.pid, row.started)


def proved_dead(c: Connection, holder: str | None, gone: Callable[[Process], bool] = make_gone) -> bool:
    """Whether nothing more can come from this holder; a lapsed one on this machine is killed to make sure."""
    row = c.execute(select(holders).where(holders.c.id == holder)).one_or_none()
    if row is None:
        return False
    # One that nobody gave up handed the case back by itself and has other cases in hand: it is not killed for that.
    return row.ended in PROVED or (gone if row.ended else is_gone)(process_of(row))


class Observer:
    """How one process judges the others: by the kernel on its own machine, by their beats elsewhere.

    A beat is missed by the fault of its holder only if the ledger took writes and this process was awake all the
    while. So a lapse counts once the same process sees it twice, `CONFIRM_SECONDS` apart and with no stall between.
    """

    def __init__(self, me: str = "") -> None:
        self.me = me
        self.gone = "dead"
        """How a holder ends whose process is gone: `stopped` while it is we who stop everything."""
        self.doubts: dict[str, float] = {}
        """Holders that seem to have lapsed, with this machine's monotonic clock when that was first seen."""
        self._looked = 0.0

    def look(self, asked: float) -> Callable[[Connection], list[Row[Any]]]:
        """The write that ends whoever is gone; `asked` is the clock now, before it waits for its turn."""
        return lambda c: self.take_over(c, time.monotonic(), asked)

    def take_over(self, c: Connection, now: float, asked: float) -> list[Row[Any]]:
        """End every holder that is gone or has lapsed and hand its cases back. Returns their rows."""
        if now - asked > CONFIRM_SECONDS / 2:
            # The ledger was locked: nobody could beat, so the watch over everybody begins again.
            self.doubts.clear()
            c.execute(update(sightings).where(sightings.c.observer == this_boot()).values(clock=now))
        if now - self._looked > 2 * CONFIRM_SECONDS:
            self.doubts.clear()  # this process was frozen, and perhaps the others with it
        self._looked = now
        ended = []
        for row in c.execute(select(holders).where(not_ended(), holders.c.id != self.me)).all():
            if is_gone(process_of(row)):
                verdict = self.gone
            elif not _silent(c, row.id, row.beat, now):
                self.doubts.pop(row.id, None)
                continue
            elif now - self.doubts.setdefault(row.id, now) >= CONFIRM_SECONDS:
                verdict = self.gone if make_gone(process_of(row)) else "lapsed"
            else:
                continue
            _end(c, row.id, verdict)
            ended.append(row)
        return ended


def _silent(c: Connection, holder: str, counter: int, now: float) -> bool:
    """Whether this machine saw the same beat for a whole lease."""
    mine = (sightings.c.holder == holder, sightings.c.observer == this_boot())
    seen = c.execute(select(sightings.c.beat, sightings.c.clock).where(*mine)).one_or_none()
    if seen is not None and seen.beat == counter:
        return bool(now - seen.clock >= LEASE_SECONDS)
    c.execute(delete(sightings).where(*mine))
    c.execute(insert(sightings).values(holder=holder, observer=this_boot(), beat=counter, clock=now))
    return False


def _end(c: Connection, holder: str, how: str) -> None:
    ended = c.execute(update(holders).where(holders.c.id == holder, holders.c.ended == "").values(ended=how))
    c.execute(delete(sightings).where(sightings.c.holder == holder))
    if ended.rowcount == 0:  # another process was first
        return
    held = c.execute(select(cases).where(cases.c.holder == holder).with_for_update()).all()
    deadly = set()
    for case in held:
        died = how in BLAMED
        deaths = _deaths(c, case) if died else case.deaths
        poison = deaths >= DEATHS
        if poison and case.source.startswith(SHADOW):
            deadly.add((case.agent, case.source))
        why = f"{deaths} attempts died at the same point of this case; see `why {case.id}`, then `release {case.id}`"
        c.execute(
            update(cases)
            .where(cases.c.id == case.id)
            .values(
                state="quarantined" if poison else "open",
                reason=why if poison else "",
                holder=None,
                fence=case.fence + 1,  # from here on a late writer loses
                deaths=deaths,
                suspect=died,
            )
        )
        c.execute(
            update(attempts)
            .where(attempts.c.case == case.id, attempts.c.fence == case.fence)
            .values(ended=time.time(), how="died" if died else "returned", why=f"its process {how}")
        )
    lose_calls_of(c, holder)
    for agent, source in sorted(deadly):
        retire_shadow(c, agent, source)
    # What only rehearses shall stop nothing that does not: its deaths are counted by its copies, which end it.
    rehearsed = any(case.source.startswith(SHADOW) for case in held)
    _end_ticks(c, holder, how in BLAMED and not rehearsed)


def _deaths(c: Connection, case: Row[tuple[object, ...]]) -> int:
    """Deaths in a row without progress: whoever stored a step or got an effect out is not stuck."""
    stored = select(func.count()).where(steps.c.case == case.id, steps.c.fence == case.fence)
    sent = select(func.count()).where(
        effects.c.case == case.id, effects.c.fence == case.fence, effects.c.state == "confirmed"
    )
    progress = c.execute(stored).scalar_one() + c.execute(sent).scalar_one()
    return 1 if progress else int(case.deaths) + 1


def _end_ticks(c: Connection, holder: str, blamed: bool) -> None:
    for agent in c.execute(select(agents).where(agents.c.holder == holder)).all():
        fruitless = agent.fruitless + blamed
        paused = agent.paused
        if fruitless >= DEATHS and not paused:
            paused = (
                f"{fruitless} ticks in a row died without settling a case; see their runs, then `resume {agent.name}`"
            )
            note = {"at": time.time(), "agent": agent.name, "who": "recovery", "what": f"paused: {paused}"}
            c.execute(insert(journal).values(note))
        c.execute(
            update(agents).where(agents.c.name == agent.name).values(holder=None, fruitless=fruitless, paused=paused)
        )


def alive(c: Connection) -> list[Row[tuple[object, ...]]]:
    """Holders nobody has ended, oldest first."""
    return list(c.execute(select(holders).where(not_ended()).order_by(holders.c.since)).all())


def forget_old(c: Connection, days: float) -> int:
    """Retention: drop ended holders that no effect in doubt still names."""
    in_doubt = select(effects.c.dispatcher).where(on_their_way())
    old = (holders.c.since < time.time() - days * 86400, holders.c.ended != "", holders.c.id.not_in(in_doubt))
    return c.execute(delete(holders).where(*old)).rowcount
