"""Stories that hypothesis makes up, and cuts down to the shortest one that still goes wrong."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.simulation.chaos import Chaos
from tests.simulation.judge import Broken
from tests.simulation.replaced import replaced

CHUNK = 100  # stories that hypothesis keeps in mind together
EVENTS = (6, 12, 20)  # in one story at most, by its chunk; each is one door or many
WHICH = st.integers(0, 2)
MACHINE = st.integers(0, 1)
CASE = st.integers(1, 5)
DOORWAYS = st.sampled_from(
    [
        "send",
        "settle",
        "store step",
        "intend",
        "dispatch",
        "confirm",
        "settle",
        "store step",
        "begin case",
        "look",
        "model",
    ]
)
CUT = {
    "doorway": DOORWAYS,
    "how": st.sampled_from(["freeze", "freeze", "kill"]),
    "after": st.booleans(),
    "clock": st.sampled_from([0, -3600, 3600]),
}
FAULTS = st.sampled_from(["", "reply lost", "no answer", "arrives late", "fails", "not sent", "refused", "unheard"])
RUNS = st.sampled_from(["a tick", "a tick", "a run of the skill", "a run of the skill", "a recovery", "a rehearsal"])


class Story(RuleBasedStateMachine):
    """One interleaving: chaos, then calm, then the last judgement."""

    told = 0

    def __init__(self) -> None:
        super().__init__()
        self.world: Chaos | None = None
        self.broken = False

    def play(self, event: str, *how: Any) -> None:
        try:
            getattr(self.world, event)(*how)
        except BaseException:
            self.broken = True
            raise

    # The first process often meets its fate before anything else can: later there may be nothing left to do.
    @initialize(
        mails=st.integers(1, 3),
        machine=MACHINE,
        what=st.sampled_from(["a tick", "a run of the skill"]),
        cut=st.booleans(),
        **CUT,
    )
    def the_first_process_starts(self, mails: int, machine: int, what: str, cut: bool, **how: Any) -> None:
        self.world = Chaos(mails)
        self.play("start", machine, what)
        if cut:
            self.a_process_is_cut_down_at_a_doorway(0, **how)

    @rule(machine=MACHINE, what=RUNS)
    def a_process_starts(self, machine: int, what: str) -> None:
        self.play("start", machine, what)

    @rule(which=WHICH, doors=st.sampled_from([1, 3, 10]))
    def a_process_works(self, which: int, doors: int) -> None:
        self.play("works", which, doors)

    @rule(which=WHICH, doorway=DOORWAYS)
    def a_process_works_until(self, which: int, doorway: str) -> None:
        self.play("works_until", which, doorway)

    @rule(which=WHICH, **CUT)
    def a_process_meets_its_fate(self, which: int, **how: Any) -> None:
        self.a_process_is_cut_down_at_a_doorway(which, **how)

    def a_process_is_cut_down_at_a_doorway(self, which: int, doorway: str, how: str, after: bool, clock: int) -> None:
        self.play("is_cut_down", which, doorway, how, after, clock)

    @rule(which=WHICH, door=WHICH, fault=FAULTS)
    def a_door_opens(self, which: int, door: int, fault: str) -> None:
        self.play("steps", which, door, fault)

    @rule(which=WHICH, after=st.booleans(), frozen=st.booleans())
    def a_process_is_killed_or_frozen(self, which: int, after: bool, frozen: bool) -> None:
        self.play("freezes" if frozen else "crashes", which, after)

    @rule(which=WHICH)
    def a_process_thaws(self, which: int) -> None:
        self.play("thaws", which)

    @rule(seconds=st.sampled_from([1, 6, 12, 25, 130]))
    def time_passes(self, seconds: int) -> None:
        self.play("waits", seconds)

    @rule(machine=MACHINE, what=st.sampled_from([-3600, 30, 3600, "cut", "cut", "joined", "reboot"]))
    def a_machine_suffers(self, machine: int, what: Any) -> None:
        if what == "reboot":
            self.play("reboots", machine)
        elif isinstance(what, int):
            self.play("clock_jumps", machine, what)
        else:
            self.play("cut_off", machine, what == "cut")

    @rule()
    def mail_comes(self) -> None:
        self.play("mail_comes")

    @rule(
        case=CASE,
        what=st.sampled_from(
            ["look", "look", "late", "again", "resend", "release", "off", "on", "drain", "end", "real"]
        ),
    )
    def a_person_acts(self, case: int, what: str) -> None:
        done: dict[str, tuple[Any, ...]] = {
            "look": ("person_looks_outside", case),
            "late": ("late_ones_arrive",),
            "again": ("person_asks_again", case, False),
            "resend": ("person_asks_again", case, True),
            "release": ("person_releases", case),
            "off": ("effects_are_switched", False),
            "on": ("effects_are_switched", True),
            "drain": ("drains", True),
            "end": ("drains", False),
            "real": ("rehearsals_become_real",),
        }
        self.play(*done[what])

    def teardown(self) -> None:
        Story.told += 1
        if self.world is None:
            return
        try:
            if not self.broken:
                self.world.calm()
        finally:
            self.world.bury()


@contextlib.contextmanager
def stage() -> Iterator[None]:
    """The simulated world; Python's collector would look at a large heap for every few stories."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        with replaced():
            yield
    finally:
        gc.enable()
        gc.unfreeze()


def tell(stories: int, number: int, shrink: bool = True) -> str:
    """Play so many stories from a seed; returns the shortest one that goes wrong, '' if none does."""
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    how = settings(
        max_examples=stories,
        stateful_step_count=EVENTS[number % len(EVENTS)],
        database=None,
        deadline=None,
        phases=phases,
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(seed(number)(Story), settings=how)
    except Broken as why:
        return str(why)
    gc.collect()
    return ""


def play(number: int) -> tuple[int, str, int]:
    """A chunk of stories: its seed, what went wrong, how many were played."""
    before = Story.told
    with stage():
        story = tell(CHUNK, number)
    return number, story, Story.told - before
