"""What can befall the simulated world, each in a sentence of its story; and the calm after it."""

from __future__ import annotations

from tasks.ledger.again import redo, redo_rehearsed, release, resolve
from tasks.ledger.agents import drain_all, resume, switch_effects
from tests.simulation.outside import mail, said
from tests.simulation.virtual import Proc
from tests.simulation.world import LONG, World

MAILS = 5
WRONG_AT_MOST = 3600.0
ROUNDS = 12  # ticks after the chaos within which everything is concluded


class Chaos(World):
    """Each method is one event; one that makes no sense now does nothing and leaves no line."""

    # Processes.

    def works(self, which: int, doors: int) -> None:
        if process := self.pick(which, "runs"):
            self.tell(f"{self.where(process)} works on, {doors} steps")
            self.run(process, doors)

    def works_until(self, which: int, doorway: str) -> None:
        if process := self.pick(which, "runs"):
            at = len(self.story)
            self.tell("")
            door = self.run_until(process, doorway)
            self.story[at] = f"{self.where(process)} works until " + (
                f"right before «{door}»" if door else self._rest(process)
            )

    def steps(self, which: int, door: int, fault: str) -> None:
        if (process := self.pick(which, "runs")) and (doors := self.doors(process)):
            one = doors[door % len(doors)]
            fault = fault if fault in one.faults else ""
            self.tell(f"{self.where(process)}: «{one.label}»" + (f", but: {fault}" if fault else ""))
            self.step(process, door, fault)

    def crashes(self, which: int, after: bool) -> None:
        if process := self.pick(which, "runs", "frozen"):
            self.tell(f"{self.where(process)} is killed{self._at(process, after)}")
            process.state = "dead"
            self.judge.look()

    def freezes(self, which: int, after: bool) -> None:
        if process := self.pick(which, "runs"):
            self.tell(f"{self.where(process)} is frozen{self._at(process, after)}")
            process.state = "frozen"
            self.judge.look()

    def is_cut_down(self, which: int, doorway: str, how: str, after: bool, clock: float) -> None:
        """Works until a doorway and is killed or frozen there; whoever wakes late may find a wrong clock."""
        if process := self.pick(which, "runs"):
            self.works_until(which, doorway)
            if process.state == "runs" and any(doorway in door.label for door in self.doors(process)):
                fit = ("runs", "frozen") if how == "kill" else ("runs",)
                mine = [one for one in self.processes if one.state in fit]
                (self.crashes if how == "kill" else self.freezes)(mine.index(process), after)
                if clock and how != "kill":
                    self.clock_jumps(self.machines.index(process.machine), clock)

    def _rest(self, process: Proc) -> str:
        return "it is somewhere else" if process.state == "runs" else "its end"

    def _at(self, process: Proc, after: bool) -> str:
        """Before its next door, or behind it and before it hears of that."""
        doors = self.doors(process)
        if not doors:
            return ""
        if after and process.state == "runs" and not doors[0].fired:
            process.open(doors[0], hear=False)
            return f" right after «{doors[0].label}», before it heard of that"
        return f" {'after' if doors[0].fired else 'right before'} «{doors[0].label}»"

    def thaws(self, which: int) -> None:
        if process := self.pick(which, "frozen"):
            self.tell(f"{self.where(process)} thaws")
            process.state = "runs"

    def waits(self, seconds: float) -> None:
        self.tell(f"{seconds:.0f} seconds pass")
        self.advance(seconds)

    # Machines.

    def clock_jumps(self, machine: int, seconds: float) -> None:
        place = self.machines[machine]
        self.tell(f"the wall clock of {place.name} is wrong by {seconds:+.0f} s")
        place.jumped = seconds

    def cut_off(self, machine: int, cut: bool) -> None:
        place = self.machines[machine]
        if place.cut != cut:
            self.tell(f"{place.name} {'can not reach the ledger' if cut else 'reaches the ledger again'}")
            place.cut = cut

    def reboots(self, machine: int) -> None:
        place = self.machines[machine]
        mine = [one for one in self.processes if one.machine is place and one.exists]
        if mine:
            self.tell(f"{place.name} reboots, and so ends {', '.join(one.name for one in mine)}")
            for one in mine:
                one.state = "dead"
            place.boot, place.booted = f"boot-{int(place.boot[5:]) + 1}", self.now

    # The outside, and persons.

    def mail_comes(self) -> None:
        number = len(self.outside.mails) + 1
        if number <= MAILS:
            one = mail(number)
            self.tell(f"mail {number} comes, which wants: {one.text} (conversation {one.thread})")
            self.outside.mails.append(one)

    def late_ones_arrive(self) -> None:
        if keys := self.outside.arrive_late():
            self.tell(f"what was on its way arrives: {', '.join(said(key) for key in keys)}")
            self.judge.look()

    def _state(self, case: int) -> str:
        rows = self.judge.query("SELECT state FROM cases WHERE id = ?", case)
        return str(rows[0][0]) if rows else ""

    def _tried(self, job) -> object:  # type: ignore[no-untyped-def]
        result = self.by_hand(job)
        self.judge.look()
        return result

    def person_asks_again(self, case: int, resend: bool) -> None:
        if self._state(case) in ("open", "parked", "settled", "quarantined"):
            self.tell(f"a person asks to redo case {case}{' and to resend' if resend else ''}")
            self._tried(lambda c: redo(c, case, "eve", resend))

    def person_releases(self, case: int) -> None:
        if self._state(case) in ("parked", "quarantined"):
            self.tell(f"a person releases case {case}")
            self._tried(lambda c: release(c, case, "eve"))

    def person_looks_outside(self, case: int) -> bool:
        """Says what became of the unknown effects of a case, once nothing of them can still arrive."""
        keys = [
            row[0]
            for row in self.judge.query('SELECT key FROM effects WHERE "case" = ? AND state = ?', case, "unknown")
        ]
        if not keys or any(self.outside.on_its_way(key) for key in keys):
            return False
        sent = {bool(self.outside.delivered[key]) for key in keys}
        if len(sent) > 1:
            return False  # one word for all: a person has none that is true
        self.tell(f"a person says that {said(keys[0])} was {'sent' if True in sent else 'not sent'}")
        self._tried(lambda c: resolve(c, case, True in sent, "eve"))
        return True

    def effects_are_switched(self, on: bool) -> None:
        self.tell(f"a person switches effects {'on' if on else 'off'}")
        self._tried(lambda c: switch_effects(c, "desk", on, "eve"))

    def drains(self, on: bool) -> None:
        self.tell("everything drains" if on else "the draining ends")
        self._tried(lambda c: drain_all(c, on))

    def rehearsals_become_real(self) -> None:
        if self._tried(lambda c: redo_rehearsed(c, 0.0, "eve")):
            self.tell("a person makes the rehearsed cases real")

    # After the chaos.

    def calm(self) -> None:
        """First the healthy take over from what is frozen, then that thaws, and then all is concluded."""
        self.tell("calm: what runs runs to its end, nothing is cut off")
        for place in self.machines:
            place.cut = False
        for one in list(self.processes):
            self._to_its_end(one, "runs")
        if frozen := [one for one in self.processes if one.state == "frozen"]:
            for what in ("a look around", "a tick"):
                self.advance(25.0)
                self._person_answers()
                self.start(1 - self.machines.index(frozen[0].machine), what)
                self._to_its_end(self.processes[-1])
            self._person_answers()
            self.tell("calm: what is still frozen thaws")
            for one in frozen:
                one.state = "runs" if one.exists else one.state
                self._to_its_end(one, "runs")
        for place in self.machines:
            place.jumped = 0.0
        self.outside.arrive_late()
        self.advance(WRONG_AT_MOST)  # a case that shall wait was given its time by a clock that was wrong
        for _ in range(ROUNDS):
            self._person_answers()
            self.advance(130.0)
            self.start(0, "a tick")
            self._to_its_end(self.processes[-1])
            states = {row[0] for row in self.judge.query("SELECT state FROM cases")}
            recorded = self.judge.query("SELECT count(*) FROM cases")[0][0] == len(self.outside.mails)
            over = recorded and states <= {"settled", "quarantined"}
            if over and not self._tried(lambda c: redo_rehearsed(c, 0.0, "eve")):
                break
        self.judge.finally_()

    def _to_its_end(self, process: Proc, state: str = "runs") -> None:
        if process.state != state:
            return
        self.run(process, LONG)
        if process.state == state:
            self.judge.broken(f"{process.name} never ends")

    def _person_answers(self) -> None:
        self.by_hand(lambda c: switch_effects(c, "desk", True, "eve"))
        self.by_hand(lambda c: drain_all(c, False))
        self.by_hand(lambda c: resume(c, "desk", "eve"))
        for (case,) in self.judge.query('SELECT DISTINCT "case" FROM effects WHERE state = ?', "unknown"):
            self.person_looks_outside(case)
        for (case,) in self.judge.query("SELECT id FROM cases WHERE state = 'parked'"):
            self.by_hand(lambda c, case=case: release(c, case, "eve"))
