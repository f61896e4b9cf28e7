"""Level one: `each()` on a fresh ledger in forked processes, killed, frozen or cut off as the plan says."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from prefect import Flow

from tasks.records import Arrival
from tests.chaos.bare import LEASE_SECONDS
from tests.chaos.oracle import Mail, Verdict
from tests.chaos.plan import Plan
from tests.chaos.scene import Ledgers, Scene
from tests.chaos.sink import Sink

KILLED = -signal.SIGKILL
RUN_SECONDS = 0.3  # about what an undisturbed run takes: random moments fall within it
SYNCS = "fdatasync,fsync,link,linkat,rename,unlink,pwrite64,sendto"


class Ground:
    """What all scenarios of one process share."""

    def __init__(self, ledgers: Ledgers, sink: Sink, flow: Flow[..., None], batches: list[list[Arrival]]) -> None:
        self.ledgers, self.sink, self.flow, self.batches = ledgers, sink, flow, batches
        self._expected: dict[int, Counter[Mail]] = {}

    def scene(self, plan: Plan) -> Scene:
        batch = self.batches[plan.batch % len(self.batches)]
        channel = plan.channel
        return Scene(self.ledgers, self.flow, batch, channel, plan.concurrency, (self.sink.port, self.sink.folder))

    def expected(self, plan: Plan) -> Counter[Mail]:
        """The mails that an undisturbed run of this batch sends."""
        number = plan.batch % len(self.batches)
        if number not in self._expected:
            scene = self.scene(replace(plan, channel="maildir"))
            try:
                if scene.wait(scene.fork()) != 0:
                    raise RuntimeError(f"the skill fails with nobody killed:\n{scene.errors.read_text()[-3000:]}")
                self._expected[number] = scene.mails()
            finally:
                scene.close()
        return self._expected[number]

    def play(self, plan: Plan) -> Verdict:
        """Kill, recover, judge. A kill that came too late is tried again, sooner, on a new scene."""
        expected, began = self.expected(plan), time.monotonic()
        for _ in range(6):
            scene = self.scene(plan)
            verdict = _Game(scene, plan, expected).judged()
            if verdict.wrong:
                verdict.wrong.append(f"see {scene.box} and {scene.url}")
            scene.close(keep=bool(verdict.wrong))
            if verdict.kills or verdict.wrong:
                break
            sooner = tuple(f"{door.rpartition(':')[0]}:1" for door in plan.doors)
            plan = replace(plan, doors=sooner, moments=tuple(one / 2 for one in plan.moments))
        else:
            verdict.wrong.append("no kill ever came in time")
        verdict.seconds = round(time.monotonic() - began, 3)
        return verdict


class _Game:
    """One scenario on its way."""

    def __init__(self, scene: Scene, plan: Plan, expected: Counter[Mail]) -> None:
        self.scene, self.plan, self.expected = scene, plan, expected
        self.verdict = Verdict(plan.number, plan=str(plan), cases=len(scene.arrivals))
        self.disturbed: set[int] = set()
        self.cuts: list[float] = []
        # SQLite is for one machine: who freezes with its lock in hand must be seen by the others.
        self.elsewhere = plan.kind == "elsewhere" and scene.ledgers.postgres is not None

    def judged(self) -> Verdict:
        try:
            self.play()
            if self.verdict.kills:
                self.finish()
                self.judge()
        except Exception:
            # Whatever goes wrong is this scenario's result, and the others go on.
            self.verdict.wrong.append(traceback.format_exc(limit=-3))
        return self.verdict

    def play(self) -> None:
        kinds: dict[str, Callable[[], None]] = {
            "freeze": self.freeze,
            "elsewhere": self.freeze,
            "pause": self.pause,
            "crowd": self.crowd,
            "random": self.random,
            "watch": self.watch,
            "sync": self.sync,
            "sever": self.sever if self.scene.ledgers.postgres else self.random,
        }
        kinds.get(self.plan.kind, self.in_a_row)()

    def judge(self) -> None:
        scene, verdict = self.scene, self.verdict
        log = scene.lines()
        verdict.judge_mails(self.expected, scene.mails())
        verdict.judge_steps(log, self.disturbed)
        verdict.judge_ledger(log, scene.stored(), scene.states(), scene.held())
        mailed = [path.stat().st_mtime - time.time() + time.monotonic() for path in scene.mail_files()]
        verdict.judge_recovery(self.cuts, log, mailed)
        nobody_can_tell = self.plan.channel == "smtp" or self.elsewhere
        if verdict.unknown and not nobody_can_tell:
            verdict.wrong.append(f"{verdict.unknown} effect(s) unknown, though {self.plan.channel} can be asked")
        if verdict.unknown > (verdict.kills + len(self.disturbed)) * self.plan.concurrency:
            verdict.wrong.append(f"{verdict.unknown} effects unknown after {verdict.kills} kills")
        if verdict.quarantined and verdict.kills < 3:
            verdict.wrong.append(f"{verdict.quarantined} case(s) quarantined after {verdict.kills} kills")

    def ended(self, pid: int, status: int) -> None:
        """Note how a process ended."""
        if status == KILLED:
            self.verdict.kills += 1
            self.disturbed.add(pid)
            self.cuts.append(time.monotonic())
        elif status != 0 and pid not in self.disturbed:
            raise RuntimeError(f"a process failed (status {status}):\n{self.scene.errors.read_text()[-3000:]}")

    def finish(self) -> None:
        """Run to the end with nobody killed; a person settles what only a person can."""
        scene = self.scene
        for _ in range(4):
            pid = scene.fork()
            self.ended(pid, scene.wait(pid))
            unknown, stuck = scene.person()
            self.verdict.unknown += unknown
            self.verdict.quarantined += stuck
            if not unknown and not stuck and set(scene.states()) == {"settled"}:
                return

    def in_a_row(self) -> None:
        for door in self.plan.doors:
            pid = self.scene.fork(door)
            self.ended(pid, self.scene.wait(pid))

    def random(self) -> None:
        for share in self.plan.moments:
            pid = self.scene.fork()
            time.sleep(share * RUN_SECONDS)
            if self.scene.end(pid):
                self.ended(pid, KILLED)

    def watch(self) -> None:
        """Kill the moment another mail has come out."""
        scene = self.scene
        pid, wanted = scene.fork(), max(1, int(self.plan.moments[0] * sum(self.expected.values())))
        while scene.lives(pid):
            if len(scene.mail_files()) >= wanted:
                if scene.end(pid):
                    self.ended(pid, KILLED)
                return
            time.sleep(0.0005)

    def sync(self) -> None:
        """Kill from outside at the N-th sync, link or write, wherever that is."""
        strace = shutil.which("strace")
        if strace is None:
            return self.random()
        gate, opened = os.pipe()
        pid = self.scene.fork(gate=gate)
        nth = 1 + int(self.plan.moments[0] * 14)
        inject = f"inject={SYNCS}:signal=SIGKILL:when={nth}"
        command = [strace, "-f", "-p", str(pid), "-e", f"trace={SYNCS}", "-e", inject, "-o", "/dev/null"]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as tracer:
            assert tracer.stderr is not None
            tracer.stderr.readline()  # «attached»
            os.write(opened, b".")
            os.close(opened)
            os.close(gate)
            self.ended(pid, self.scene.wait(pid))

    def sever(self) -> None:
        """Cut the database's connections; whoever had a call in hand may lose its result, and only that."""
        scene = self.scene
        for share in self.plan.moments:
            pid = scene.fork()
            time.sleep((0.2 + share) * RUN_SECONDS)
            if scene.lives(pid):
                self.disturbed.add(pid)
                self.verdict.kills += 1
                scene.ledgers.sever(scene.url)
                self.cuts.append(time.monotonic())
                self.ended(pid, scene.wait(pid))

    def crowd(self) -> None:
        """Several processes on one inbox, of which some die."""
        pids = [self.scene.fork(*[door]) for door in self.plan.doors] + [self.scene.fork()]
        for pid in pids:
            self.ended(pid, self.scene.wait(pid))

    def freeze(self) -> None:
        """Freeze one, let others take over, thaw it late."""
        scene, elsewhere = self.scene, self.elsewhere
        frozen = scene.fork(f"{self.plan.doors[0]}:STOP")
        status = scene.wait(frozen, frozen=True)
        if status != -signal.SIGSTOP:
            return self.ended(frozen, status)
        self.verdict.kills += 1
        self.disturbed.add(frozen)
        self.cuts.append(time.monotonic())
        until = time.monotonic() + 20 * LEASE_SECONDS
        while scene.lives(frozen):
            other = scene.fork(elsewhere=elsewhere)
            self.ended(other, scene.wait(other))
            if scene.states()["settled"] + scene.states()["parked"] + scene.behind_parked() == len(scene.arrivals):
                break
            if time.monotonic() > until:
                raise TimeoutError(f"nobody took over from a frozen process: {scene.states()}")
            time.sleep(LEASE_SECONDS / 4)
        if frozen in scene.children:
            os.kill(frozen, signal.SIGCONT)
            scene.wait(frozen)

    def pause(self) -> None:
        """Freeze one for less than a lease while another works: both must go on and share the cases."""
        scene = self.scene
        frozen = scene.fork("after:store step:2:STOP")
        status = scene.wait(frozen, frozen=True)
        if status != -signal.SIGSTOP:
            return self.ended(frozen, status)
        self.verdict.kills += 1
        self.cuts.append(time.monotonic())
        other = scene.fork()
        time.sleep(self.plan.moments[0] * LEASE_SECONDS / 4)
        os.kill(frozen, signal.SIGCONT)
        self.ended(other, scene.wait(other))
        status = scene.wait(frozen)
        if status != 0 and "FenceLost" in scene.errors.read_text():
            self.disturbed.add(frozen)  # on a machine that is busy enough its lease ran out all the same
        self.ended(frozen, status)
