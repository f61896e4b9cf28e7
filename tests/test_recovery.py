"""What died is found, ended and gone on with, once; what is alive is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Crashed, Pending, Running
from sqlalchemy import select, update

from flows.loop import agent_loop
from flows.release import release
from tasks import recovery
from tasks.errors import BadInput
from tasks.ledger.cases import begin
from tasks.ledger.database import Ledger
from tasks.ledger.effects import dispatching, intend
from tasks.ledger.holders import Observer, register
from tasks.ledger.tables import cases, effects, holders, journal
from tasks.process import Process, this_process
from tasks.records import Effect
from tasks.recovery import reconcile, repair_runs
from tests.conftest import arrival, fill

GONE = this_process()._replace(pid=2**22 - 7, started="1")  # a pid of this boot that nobody has


@pytest.fixture
def server(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(recovery, "TRIGGER_SECONDS", 0.0)
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield prefect_server


@contextlib.contextmanager
def started_for(run: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process as a worker starts it for a run."""
    env = {**os.environ, "PREFECT__FLOW_RUN_ID": run}
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=env)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


class Shown:
    """Runs of one deployment at the server, with what the ledger knows of their processes."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.name = ledger, f"d{uuid.uuid4().hex[:8]}"

    async def enter(self) -> None:
        async with get_client() as client:
            flow_id = await client.create_flow(agent_loop)
            self.deployment = await client.create_deployment(flow_id, self.name, tags=[recovery.TAG])

    async def run(self, state: Any, who: Process | None, ended: str = "") -> str:
        async with get_client() as client:
            made = await client.create_flow_run_from_deployment(self.deployment, state=Pending())
            await client.set_flow_run_state(made.id, state, force=True)
            if who is not None:
                holder = uuid.uuid4().hex
                self.ledger.write_now("register", lambda c: register(c, holder, who, str(made.id)))
                ended_so = update(holders).where(holders.c.id == holder).values(ended=ended)
                self.ledger.write_now("end", lambda c: c.execute(ended_so))
            return str(made.id)

    async def state(self, run: str) -> str:
        async with get_client() as client:
            return str((await client.read_flow_run(uuid.UUID(run))).state_name)

    async def all(self) -> list[str]:
        from prefect.client.schemas.filters import FlowRunFilter

        mine = FlowRunFilter.model_validate({"deployment_id": {"any_": [self.deployment]}})
        async with get_client() as client:
            return [str(one.state_name) for one in await client.read_flow_runs(flow_run_filter=mine)]


def test_a_dead_run_is_shown_as_such_and_run_again_once_however_many_look(server: str, ledger: Ledger) -> None:
    async def story() -> None:
        shown = Shown(ledger)
        await shown.enter()
        dead = await shown.run(Running(), GONE)

        async def look() -> None:
            gone = await ledger.write("look", Observer().look(time.monotonic()))
            await repair_runs(ledger, gone)

        await asyncio.gather(look(), look(), look())
        await look()
        assert await shown.state(dead) == "Crashed"
        assert sorted(await shown.all()) == ["Crashed", "Scheduled"]

    asyncio.run(story())


def test_a_recovery_killed_half_way_is_finished_by_the_next(server: str, ledger: Ledger) -> None:
    async def story() -> None:
        shown = Shown(ledger)
        await shown.enter()
        dead = await shown.run(Running(), GONE, ended="dead")  # the ledger knows, Prefect was not told
        await repair_runs(ledger)
        assert await shown.state(dead) == "Crashed"
        assert sorted(await shown.all()) == ["Crashed", "Scheduled"]

    asyncio.run(story())


def test_a_live_run_is_never_called_crashed(server: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "NEVER_SECONDS", {True: 0.0, False: 900.0})

    async def story() -> None:
        shown = Shown(ledger)
        await shown.enter()
        at_work = await shown.run(Running(), this_process())
        reporting = await shown.run(Running(), this_process(), ended="left")
        elsewhere = await shown.run(Running(), GONE._replace(machine="another"))
        starting = await shown.run(Pending(), None)
        with started_for(starting) as born:
            async with get_client() as client:
                await client.update_flow_run(uuid.UUID(starting), infrastructure_pid=str(born.pid))
            ledger.write_now("look", Observer().look(time.monotonic()))
            await repair_runs(ledger, here=True)
            states = [await shown.state(one) for one in (at_work, reporting, elsewhere, starting)]
            assert states == ["Running", "Running", "Running", "Pending"]
        await repair_runs(ledger, here=True)
        assert await shown.state(starting) == "Crashed"

    asyncio.run(story())


def test_a_run_that_nobody_started_does_not_stand_for_ever_and_is_not_looped(
    server: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        shown = Shown(ledger)
        await shown.enter()
        stuck = await shown.run(Pending(), None)
        cancelling = await shown.run(Cancelling(), GONE, ended="dead")
        await repair_runs(ledger, here=False, go_on=False)
        assert await shown.state(stuck) == "Pending", "too young to judge"
        monkeypatch.setattr(recovery, "NEVER_SECONDS", {True: 0.0, False: 0.0})
        await repair_runs(ledger)
        assert (await shown.state(stuck), await shown.state(cancelling)) == ("Crashed", "Cancelled")
        assert "Scheduled" not in await shown.all() or (await shown.all()).count("Scheduled") == 1

    asyncio.run(story())


def test_a_run_that_a_stopped_worker_had_claimed_waits_for_the_next_start(server: str, ledger: Ledger) -> None:
    async def story() -> None:
        shown = Shown(ledger)
        await shown.enter()
        claimed = await shown.run(Pending(), None)
        begun = await shown.run(Running(), None)
        await repair_runs(ledger, here=True, go_on=False)
        assert (await shown.state(claimed), await shown.state(begun)) == ("Scheduled", "Crashed")

    asyncio.run(story())


def test_a_run_that_met_the_dead_still_at_work_is_not_taken_for_one_that_goes_on(server: str, ledger: Ledger) -> None:
    async def story() -> None:
        shown = Shown(ledger)
        await shown.enter()
        await shown.run(Running(), GONE)
        await shown.run(Running(), this_process())  # about to end, because another tick was at work when it looked
        await repair_runs(ledger, await ledger.write("look", Observer().look(time.monotonic())))
        assert sorted(await shown.all()) == ["Crashed", "Running", "Scheduled"]

    asyncio.run(story())


def test_a_run_that_began_after_a_death_is_the_one_that_goes_on(server: str, ledger: Ledger) -> None:
    async def story() -> None:
        shown = Shown(ledger)
        await shown.enter()
        dead = await shown.run(Running(), GONE)
        async with get_client() as client:  # as Prefect's worker does, who sees the process end
            await client.set_flow_run_state(uuid.UUID(dead), Crashed(), force=True)
        await shown.run(Running(), this_process())
        await repair_runs(ledger, await ledger.write("look", Observer().look(time.monotonic())))
        assert sorted(await shown.all()) == ["Crashed", "Running"]

    asyncio.run(story())


def on_its_way(ledger: Ledger, box: Path, channel: str, who: Process) -> str:
    """An effect between «now» and «done», of a case that its dead process left behind and that was quarantined."""
    fill(ledger, box, [arrival(1)], effects={"reply": channel})
    holder = uuid.uuid4().hex

    def go(c: Any) -> None:
        register(c, holder, who, "")
        work: Any = begin(c, 1, holder, "practice", "1", "")
        reply = Effect(kind="reply", to=work.case.sender, subject="Re", body="Hello")
        intend(c, work, "reply/1", channel, reply)
        assert dispatching(c, work, "reply/1", holder, False) == ""
        c.execute(update(cases).values(state="quarantined", holder=None))

    ledger.write_now("go", go)
    return holder


def fate(ledger: Ledger) -> str:
    return str(ledger.read_now("look", lambda c: c.execute(select(effects.c.state)).scalar_one()))


@pytest.mark.parametrize(("sent", "becomes"), [(True, "confirmed"), (False, "intended")])
def test_an_effect_left_on_its_way_is_looked_for_outside(
    ledger: Ledger, tmp_path: Path, sent: bool, becomes: str
) -> None:
    from tasks import channels

    channel = f"maildir:{tmp_path / 'sent'}"
    on_its_way(ledger, tmp_path, channel, GONE)
    if sent:
        channels.send(channel, "reply/1", Effect(kind="reply", to="c1@example.com", body="Hello"), "desk@example.com")
    asyncio.run(reconcile(ledger))
    assert fate(ledger) == becomes
    assert len(list((tmp_path / "sent").glob("new/*"))) == int(sent)


def test_an_effect_that_nobody_can_look_for_becomes_unknown_and_one_of_a_live_process_is_left_alone(
    ledger: Ledger, tmp_path: Path
) -> None:
    holder = on_its_way(ledger, tmp_path, "smtp+plain://127.0.0.1:9", this_process())
    asyncio.run(reconcile(ledger))
    assert fate(ledger) == "dispatching"
    ledger.write_now("die", lambda c: c.execute(update(holders).where(holders.c.id == holder).values(GONE._asdict())))
    asyncio.run(reconcile(ledger))
    assert fate(ledger) == "unknown"


def test_a_release_from_the_ui_keeps_who_asked_and_why(
    server: str, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    fill(ledger, tmp_path, [arrival(1)])
    with pytest.raises(BadInput, match="neither quarantined nor parked"):
        asyncio.run(release(case=1, who="Ann"))
    ledger.write_now("stop", lambda c: c.execute(update(cases).values(state="quarantined")))
    asyncio.run(release(case=1, who="Ann", why="the parser was mended"))
    kept = ledger.read_now("look", lambda c: c.execute(select(journal)).all())
    assert [(one.case, one.who, one.what) for one in kept] == [(1, "Ann in the UI", "released: the parser was mended")]


def test_beats_that_a_locked_ledger_could_not_take_cost_nobody_his_lease(ledger: Ledger) -> None:
    far = GONE._replace(machine="another")
    ledger.write_now("register", lambda c: register(c, "h" * 36, far, ""))
    watch = Observer()

    def look(now: float, waited: float = 0.0) -> list[Any]:
        return ledger.write_now("look", lambda c: watch.take_over(c, now, now - waited))

    look(100.0)
    assert look(121.0) == [], "one look is no proof"
    assert look(126.5, waited=20.0) == [], "nobody could write meanwhile"
    assert look(132.0) == []
    assert look(147.0) == [] and [row.id for row in look(152.5)] == ["h" * 36]
