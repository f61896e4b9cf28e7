"""Level two: one whole house, in which one part after the other is killed while it answers tickets."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from tests.chaos.oracle import Verdict
from tests.chaos.plan import Plan, plan
from tests.chaos.street import TICKETS, Street
from tests.chaos.witness import Line, heard
from tests.servers import wait_for


class _Night:
    """One kill in a house and what follows from it."""

    def __init__(self, street: Street, chosen: Plan) -> None:
        self.street, self.plan = street, chosen
        self.verdict = Verdict(chosen.number, "stack", str(chosen))

    def judged(self) -> Verdict:
        street, verdict, began = self.street, self.verdict, time.monotonic()
        what = self.plan.kind
        if what == "database" and not street.postgres:
            what = "worker, flow"
        if what == "warm" and street.part("warm") is None:
            what = "flow"  # this system can not fork runs from a warm process
        start, before = street.log.stat().st_size, street.answered()
        cut: set[int] = set()
        ids: list[str] = []
        try:
            for _ in range(5):
                ids += street.deliver(self.plan.number)
                old = len(street.outgoing())
                street.tick()
                wanted = old + 1 + int(self.plan.moments[0] * (TICKETS - 4))
                if self._reach(wanted, what, cut):
                    break
            else:
                verdict.wrong.append("no kill ever came while there was work")
            verdict.cases = len(ids)
            self._settle(ids)
        except Exception:
            verdict.wrong.append(traceback.format_exc(limit=-3))
        with street.log.open() as log:
            log.seek(start)
            lines = heard(log.read())
        verdict.judge_steps(lines, cut)
        found = street.answered() - before
        verdict.duplicates = sum(count - 1 for count in found.values())
        about = {one[0] for one in found}
        verdict.lost = sum(1 for one in ids if one not in about)
        verdict.wrong += [f"{count} mails for {one}" for one, count in found.items() if count > 1]
        verdict.wrong += [f"nothing went out for {one}" for one in ids if one not in about]
        verdict.unknown = int(street.ask("SELECT count(*) FROM effects WHERE state = 'unknown'") or 0)
        if verdict.unknown:
            verdict.wrong.append(f"{verdict.unknown} effect(s) unknown, though a maildir can be asked")
        verdict.seconds = round(time.monotonic() - began, 2)
        return verdict

    def _reach(self, wanted: int, what: str, cut: set[int]) -> bool:
        """Kill when the wanted mail is out; False if the work was done before the knife fell."""
        street, until = self.street, time.monotonic() + 120
        while len(street.outgoing()) < wanted:
            if time.monotonic() > until:
                raise TimeoutError(f"no mail {wanted} within 120 s")
            time.sleep(0.002)
        flow = street.part("flow")
        if flow is None:
            return False
        began = time.monotonic()
        if what == "freeze":
            with contextlib.suppress(ProcessLookupError):
                os.kill(flow, signal.SIGSTOP)
            cut.add(flow)
        else:
            cut |= street.kill(what)
        # After the kill: on a busy machine the victim goes on working between the look at the clock and the signal.
        out, killed = len(street.outgoing()), began if what == "database" else time.monotonic()
        self.verdict.kills += 1
        if what == "all":
            street.raise_again()

        def signs() -> float | None:
            done = next((line.at for line in self._lines() if line.word == "done" and line.at > killed), None)
            return done or (time.monotonic() if len(street.outgoing()) > out else None)

        if street.ask("SELECT count(*) FROM cases WHERE state IN ('open', 'working')") or what == "all":
            back = wait_for(signs, 180, "the first sign of work after the kill")
            self.verdict.recovery.append(round(back - killed, 2))
            return True
        return False

    def _lines(self) -> list[Line]:
        return heard(self.street.log.read_text()[-20_000:].partition("\n")[2])

    def _settle(self, ids: list[str]) -> None:
        """Wait until all is answered and nothing that is not alive is shown as under way."""
        street = self.street
        wait_for(lambda: set(ids) <= {one[0] for one in street.answered()}, 180, "an answer to every ticket")
        open_ = "SELECT count(*) FROM cases WHERE state IN ('open', 'working')"
        wait_for(lambda: street.ask(open_) == 0, 60, "the end of every case")

        def nothing_unended() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return not street.unended()
            return False

        try:
            wait_for(nothing_unended, 120, "the end of every run in Prefect's eyes")
        except TimeoutError:
            shown = [f"{one['name']} {one['state_name']}" for one in street.unended()]
            self.verdict.wrong.append(f"runs stand as under way: {shown}")
        gone = "SELECT count(*) FROM holders WHERE ended = ''"
        wait_for(lambda: street.ask(gone) == 0, 60, "the end of every lease")


def houses(seed: int, db: str, skill: str, inbox: Path | None) -> Iterator[Callable[[int], Verdict]]:
    """Yields the player once; the rest cleans up."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-house-"))
    street = Street(folder, db, skill, inbox)
    wrong = False

    def play(number: int) -> Verdict:
        nonlocal wrong
        verdict = _Night(street, plan(seed, number)).judged()
        wrong = wrong or bool(verdict.wrong)
        if verdict.wrong:
            verdict.wrong.append(f"see {folder}")
        return verdict

    try:
        yield play
    finally:
        street.stop()
        if not wrong:
            shutil.rmtree(folder, ignore_errors=True)
