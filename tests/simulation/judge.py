"""The invariants of the design, judged after every step from the outside world and the ledger's rows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tasks.ledger.cases import Work
from tasks.ledger.holders import LEASE_SECONDS
from tests.simulation.virtual import Proc

if TYPE_CHECKING:
    from tests.simulation.world import World

STATES = {"open", "working", "parked", "settled", "quarantined"}


class Broken(AssertionError):
    """An invariant does not hold."""


class Judge:
    """Remembers what was seen, so that what must only grow is seen to shrink."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.fences: dict[int, int] = {}
        self.begun: Counter[int] = Counter()
        self.heard: dict[str, tuple[int, float]] = {}
        self.ended: set[str] = set()
        self.verdict = ""
        self._changes = -1
        self._rows = {"steps": 0, "outcomes": 0}

    def query(self, sql: str, *values: object) -> list[tuple]:  # type: ignore[type-arg]
        return self.world.database.execute(sql, values).fetchall()

    def broken(self, what: str) -> None:
        """Note it, because the code under test may catch what is raised in the middle of it."""
        self.verdict = self.verdict or what
        self.pronounce()

    def pronounce(self) -> None:
        """Raise what was found, with the story that led to it."""
        if self.verdict:
            raise Broken(f"{self.verdict}\n{self.world.told()}")

    # What the outside sees as it happens.

    def delivered(self, key: str) -> None:
        if self.world.outside.delivered[key] > 1:
            self.broken(f"an effect went out twice: {key}")
        if key.startswith("rehearsed"):
            self.broken(f"a rehearsal went out: {key}")

    def send_begins(self, process: Proc, key: str) -> None:
        """Right after the last look at the lease: the claim is committed, and nobody else's word stands against it."""
        state = self.query("SELECT state, dispatcher FROM effects WHERE key = ?", key)
        if state != [("dispatching", process.holder)]:
            self.broken(f"a send begins in {process.name} without its claim: {key} is {state or 'not even intended'}")

    def step_runs(self, work: Work, key: str) -> None:
        case = work.case.id
        if self.query('SELECT 1 FROM steps WHERE "case" = ? AND key = ?', case, key):
            self.broken(f"a finished step runs again: {key}")
        if not self.query('SELECT 1 FROM attempts WHERE "case" = ? AND fence = ?', case, work.fence):
            self.broken(f"case {case} is worked and the attempt is not counted")

    def shot(self, victim: Proc) -> None:
        """Only who was silent for a whole lease may be killed."""
        _, heard = self.heard.get(victim.holder, (0, self.world.now))
        if self.world.now - heard < LEASE_SECONDS - 1:
            self.broken(f"{victim.name} was killed although its last beat is {self.world.now - heard:.0f} s old")

    def crashed_with(self, process: Proc, why: BaseException) -> None:
        # A tick shows both as an error of its own, so that Prefect calls it failed and not crashed.
        if not {type(why).__name__, type(why.__cause__).__name__} & {"FenceLost", "LedgerLost"}:
            self.broken(f"{process.name} ended with {type(why).__name__}: {why}")

    # What the ledger says after every step.

    def look(self) -> None:
        self.pronounce()
        changes = self.world.changes()
        if changes == self._changes:
            return
        self._changes = changes
        self._cases()
        self._holders()
        self._late_writers()
        for case, _ in self.query('SELECT "case", fence FROM outcomes GROUP BY 1, 2 HAVING count(*) > 1'):
            self.broken(f"case {case} was concluded twice under one fence")
        for key, kind in self.query("SELECT key, kind FROM effects WHERE state = 'confirmed'"):
            if not self.world.outside.delivered[key]:
                self.broken(f"the {kind} {key} is confirmed and never went out")

    def _late_writers(self) -> None:
        for table, last in self._rows.items():
            new = f'SELECT t.rowid, t."case", t.fence, c.fence FROM {table} t JOIN cases c ON c.id = t."case"'
            for row, case, mine, current in self.query(f"{new} WHERE t.rowid > ? ORDER BY 1", last):
                self._rows[table] = row
                if mine != current:
                    self.broken(f"a late writer entered {table} of case {case} under fence {mine}; it is {current}")

    def _cases(self) -> None:
        rows = self.query("SELECT id, state, fence, holder, source || thread, reason FROM cases")
        if len(rows) < len(self.fences):
            self.broken("a recorded case is gone")
        working = []
        for case, state, fence, holder, thread, reason in rows:
            if state not in STATES or (state in ("parked", "quarantined") and not reason):
                self.broken(f"case {case} is {state!r} because of {reason!r}")
            if fence < self.fences.get(case, 0):
                self.broken(f"the fence of case {case} went back from {self.fences[case]} to {fence}")
            self.fences[case] = fence
            if (state == "working") != (holder is not None):
                self.broken(f"case {case} is {state} and its holder is {holder}")
            if state == "working":
                working.append((case, holder, thread, fence))
        for case, holder, thread, fence in working:
            if sum(one[2] == thread for one in working) > 1:
                self.broken(f"two cases of the conversation of case {case} are worked at the same time")
            if self.query("SELECT ended FROM holders WHERE id = ?", holder) != [("",)]:
                self.broken(f"case {case} is worked by {holder}, which has ended")
            if not self.query('SELECT 1 FROM attempts WHERE "case" = ? AND fence = ?', case, fence):
                self.broken(f"case {case} is worked and the attempt is not counted")

    def _holders(self) -> None:
        now = self.world.now
        for holder, beat, ended in self.query("SELECT id, beat, ended FROM holders"):
            if self.heard.get(holder, (-1, 0.0))[0] != beat:
                self.heard[holder] = (beat, now)
            if ended in ("dead", "lapsed") and holder not in self.ended:
                process = self.world.by_holder(holder)
                silent = now - self.heard[holder][1]
                if process.exists and ended == "dead":
                    self.broken(f"{process.name} lives and is called dead")
                if process.exists and silent < LEASE_SECONDS - 1:
                    self.broken(f"{process.name} was given up although its last beat is {silent:.0f} s old")
            if ended:
                self.ended.add(holder)

    def finally_(self) -> None:
        """After the chaos, one healthy process and a person that answers: nothing is stuck and nothing is lost."""
        recorded = self.query("SELECT count(*) FROM cases")[0][0]
        if recorded != len(self.world.outside.mails):
            self.broken(f"{len(self.world.outside.mails)} mails came and {recorded} cases were recorded")
        for case, state, reason in self.query("SELECT id, state, reason FROM cases"):
            if state not in ("settled", "quarantined"):
                self.broken(f"case {case} is stuck: {state}, {reason!r}")
        last = 'SELECT max(id) FROM outcomes GROUP BY "case"'
        joined = 'SELECT o.answer, o."case", c.key, c.resend FROM outcomes o JOIN cases c ON c.id = o."case"'
        sql = f"{joined} WHERE o.id IN ({last})"
        for answer, case, name, resend in self.query(f"{sql} AND c.state = 'settled' AND NOT o.rehearsed"):
            for kind in [one for one in answer.split(", ") if one != "nothing"]:
                to = f"c{name.strip('<>')}@example.com" if kind == "reply" else ""
                key = f"{kind}/{to}/mail:/inbox/{name}" + (f"#{resend}" if resend else "")
                if self.world.outside.delivered[key] != 1:
                    self.broken(f"case {case} is settled and its {kind} never went out")
                if self.query("SELECT state FROM effects WHERE key = ?", key) != [("confirmed",)]:
                    self.broken(f"case {case} is settled and its {kind} is not confirmed")
