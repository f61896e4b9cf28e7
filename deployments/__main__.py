"""The commands: up, down, deploy, demo, doctor, why, redo, release, resolve, verdict(s), approve, revert, switch ..."""

from __future__ import annotations

import getpass
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from deployments import agents, waiting
from deployments.console import WHO, fail, out
from tasks.errors import HoldfastError, LedgerLost
from tasks.home import home, taught
from tasks.ledger import the_ledger
from tasks.ledger.again import redo as work_again
from tasks.ledger.again import redo_rehearsed
from tasks.ledger.again import release as let_go
from tasks.ledger.again import resolve as settle_doubt
from tasks.ledger.agents import drain_all
from tasks.ledger.proposals import decide, newest_proposals, take_back, take_rule_back
from tasks.ledger.releases import releases_of
from tasks.ledger.story import story
from tasks.ledger.thresholds import revert_threshold, threshold_of
from tasks.ledger.verdicts import say
from tasks.verdict_file import import_verdicts

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
app.add_typer(waiting.app)
app.add_typer(agents.app)
GRACE_SECONDS = 30.0  # for a step that runs when `up` is asked to stop; what takes longer is ended, without blame


@app.command()
def up(port: Annotated[int, typer.Option(help="Where Prefect's server and UI listen, on loopback.")] = 4200) -> None:
    """Start server, worker and agents, and restart what dies, until Ctrl-C or `down`."""
    from deployments.only_one import only_one
    from deployments.supervisor import LOOK_SECONDS, House, stopping, wait_until_drained

    with only_one():
        the_ledger().write_now("let agents start", lambda c: drain_all(c, False))
        asked, house = stopping(), House(port)
        try:
            out.print(f"Starting. Logs are in {home() / 'logs'}")
            house.start_server()
            house.start_worker()
            out.print(f"Up. Watch the agents at {house.ui} (Ctrl-C or `down` stops all).")
            while not asked:
                for said in house.look():
                    out.print(f"{datetime.now(UTC):%H:%M:%S}  {said}", soft_wrap=True)
                time.sleep(LOOK_SECONDS)
            out.print("Draining: no new step begins, cases in hand are handed back.")
            wait_until_drained(GRACE_SECONDS)
        finally:
            house.stop()
    out.print("Down.")


@app.command()
def down(seconds: Annotated[float, typer.Option(help="How long `up` may take to drain.")] = 60.0) -> None:
    """Drain and stop what `up` started; no run is left as Running."""
    from deployments.only_one import who_is_up

    pid = who_is_up()
    if pid is None:
        raise fail(f"Nothing is up on {home()}.")
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if who_is_up() != pid:
            out.print("Down.")
            return
        time.sleep(0.1)
    raise fail(f"Process {pid} is still draining after {seconds:.0f} s. Wait, or end it with `kill -9 {pid}`.")


@app.command()
def deploy(
    seconds: Annotated[float, typer.Option(help="How long cases in hand may take to be handed back.")] = 60.0,
) -> None:
    """Drain all agents, enter prefect.yaml's deployments, and let the agents start again."""
    from deployments.enter import ask_server, enter_deployments
    from deployments.supervisor import wait_until_drained

    ask_server()
    ledger = the_ledger()
    try:
        if not wait_until_drained(seconds):
            out.print("Some cases are still in hand; they go on with the code that they began with.")
        enter_deployments()
    finally:
        ledger.write_now("let agents start", lambda c: drain_all(c, False))
    out.print("Deployed; the agents go on with their next tick.")


@app.command()
def demo(
    home_: Annotated[Path | None, typer.Option("--home", help="A folder for all its state.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the tickets' order and wording, and when the kill comes.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
    keep: Annotated[bool, typer.Option(help="Leave the UI up at the end, until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(help="Where the UI listens; 0 takes a free port.")] = 0,
) -> None:
    """47 tickets, killed with SIGKILL in the middle, each answered exactly once; counted from the mail folders."""
    from deployments.demo import run

    raise typer.Exit(run(home_, seed, json, keep, port))


@app.command()
def doctor() -> None:
    """Check versions, ledger, pool, worker, clock, disk and stuck cases; each finding with its remedy."""
    from deployments.doctor import examine

    raise typer.Exit(examine(out))


@app.command()
def why(case: int) -> None:
    """Tell the story of one case, in order."""
    told = the_ledger().read_now(f"tell the story of case {case}", lambda c: story(c, case))
    if not told:
        raise fail(f"There is no case {case}. A tick's table in the UI lists the ids.")
    for line in told:
        at = f"{datetime.fromtimestamp(line.at, UTC):%d %b %H:%M:%S}"
        out.print(f"{at}  {line.what}{line.words}", soft_wrap=True, markup=False)


@app.command()
def redo(
    case: Annotated[int | None, typer.Argument(help="One case, worked afresh.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Make cases live that were rehearsed since (UTC).")] = None,
    resend: Annotated[bool, typer.Option(help="Also repeat effects that are out already.")] = False,
) -> None:
    """Work one case again, or make rehearsed ones live; the next tick takes them."""
    if (case is None) == (since is None):
        raise fail("Name one case, or --since a date.")
    if case is not None:
        the_ledger().write_now(f"redo case {case}", lambda c: work_again(c, case, WHO, resend))
        out.print(f"Case {case} is open again; the next tick works it afresh.")
    elif since is not None:
        start = since.replace(tzinfo=UTC).timestamp()
        ids = the_ledger().write_now("redo rehearsed cases", lambda c: redo_rehearsed(c, start, WHO))
        out.print(f"{len(ids)} rehearsed case(s) are open again; the next live tick takes them.")


@app.command()
def release(case: int, why: Annotated[str, typer.Option(help="What was mended, for the journal.")] = "") -> None:
    """Give a quarantined or parked case another chance."""
    if not the_ledger().write_now(f"release case {case}", lambda c: let_go(c, case, WHO, why)):
        raise fail(f"Case {case} is neither quarantined nor parked; see `why {case}`.")
    out.print(f"Case {case} is open again.")


@app.command()
def resolve(case: int, sent: Annotated[bool, typer.Option("--sent/--not-sent", help="What you saw outside.")]) -> None:
    """Say what became of an effect that nobody could tell of."""
    if not the_ledger().write_now(f"resolve case {case}", lambda c: settle_doubt(c, case, sent, WHO)):
        raise fail(f"Case {case} has no effect in doubt; see `why {case}`.")
    out.print(f"Noted; case {case} goes on with the next tick.")


@app.command()
def verdict(
    case: int,
    right: Annotated[bool, typer.Option("--right/--wrong", help="Was acting on its answer right, or had it been?")],
    label: Annotated[str, typer.Option(help="What the answer should have been.")] = "",
    why: Annotated[str, typer.Option(help="For whoever reads the case later.")] = "",
    who: Annotated[str, typer.Option(help="Whose word it is.")] = getpass.getuser(),
) -> None:
    """Say whether the newest outcome of a case was right."""
    if the_ledger().write_now(f"note a verdict on case {case}", lambda c: say(c, case, right, who, label, why)):
        out.print(f"Noted: case {case} was {'right' if right else 'wrong'}. The next review counts it.")
    else:
        out.print(f"{who} said so of case {case} already; nothing is changed.", markup=False)


@app.command()
def verdicts(file: Annotated[Path, typer.Argument(help="CSV: case,right,label,why,auditor")]) -> None:
    """Take verdicts from a file, all or none; the same file again changes nothing."""
    handed = import_verdicts(the_ledger(), file)
    out.print(f"{handed.new} verdict(s) noted, {handed.known} known already. The next review counts them.")
    if handed.past:
        out.print(
            f"{handed.past} of those known count no more: the case was worked again, or the auditor said something "
            "else since. If one still holds, say it with `verdict CASE`.",
            soft_wrap=True,
        )


@app.command()
def proposals(agent: Annotated[str, typer.Argument(help="Of this agent; all if left out.")] = "") -> None:
    """List what skills could learn or leave to people, the newest first, with what held-out cases showed."""
    for one in the_ledger().read_now("list proposals", lambda c: newest_proposals(c, agent, 20)):
        state = f"{one.state} by {one.who}" if one.who else one.state
        shown = one.replay or one.exam or "never replayed"
        out.print(f"{one.id}  {state}: {one.agent}'s {one.skill}, {one}; {shown}", soft_wrap=True, markup=False)


@app.command()
def approve(number: int, why: Annotated[str, typer.Option(help="For the journal.")] = "") -> None:
    """Let a proposal count for cases that begin from now on."""
    _decided(number, True, why)


@app.command()
def decline(number: int, why: Annotated[str, typer.Option(help="For the journal.")] = "") -> None:
    """Refuse a proposal; its cases are not proposed again."""
    _decided(number, False, why)


def _decided(number: int, yes: bool, why: str) -> None:
    done = "approved" if yes else "declined"
    if not the_ledger().write_now(f"decide on proposal {number}", lambda c: decide(c, number, yes, WHO, why)):
        out.print(f"Proposal {number} was {done} before; nothing is changed.")
        return
    taught().touch()
    out.print(f"Proposal {number} is {done}{', for cases that begin from now on' if yes else ''}.")


@app.command()
def revert(
    agent: str,
    skill: str,
    lessons: Annotated[bool, typer.Option("--lessons", help="What it learnt last.")] = False,
    rules: Annotated[bool, typer.Option("--rules", help="The newest rule on its answers.")] = False,
) -> None:
    """Take the newest change of a skill's threshold back, what it learnt last, or the newest rule on its answers."""
    if rules:
        rule = the_ledger().write_now(f"revert {skill}", lambda c: take_rule_back(c, agent, skill, WHO))
        if rule is None:
            raise fail(f"No rule on the answers of {agent}'s {skill} is left to take back.")
        out.print(f"Proposal {rule.id} ({rule}) counts no more for cases that begin from now on.", markup=False)
        return
    if lessons:
        back = the_ledger().write_now(f"revert {skill}", lambda c: take_back(c, agent, skill, WHO))
        if back is None:
            raise fail(f"Nothing that {agent}'s {skill} was taught is left to take back.")
        taught().touch()
        out.print(f"{back[1]} lesson(s) of proposal {back[0]} count no more for cases that begin from now on.")
        return
    before = the_ledger().write_now(f"revert {skill}", lambda c: revert_threshold(c, agent, skill, WHO))
    if before is None:
        raise fail(f"No threshold of {agent}'s {skill} was ever changed, or all changes are taken back.")
    now = the_ledger().read_now("read the threshold", lambda c: threshold_of(c, agent, skill))
    where = "what the agent's settings say" if now is None else f"{now:.2f}"
    out.print(f"{skill} no longer acts from {before:.2f} on, but from {where}, in cases that begin from now on.")


@app.command()
def stages(agent: str) -> None:
    """List the versions of an agent's skills that have a stage; the deployment `stage` gives them one."""
    for one in the_ledger().read_now("read the stages", lambda c: releases_of(c, agent)):
        part = f" for {one.share:.0%}" if one.share else ""
        at = f"{datetime.fromtimestamp(one.at, UTC):%d %b %H:%M}"
        out.print(f"{one.skill} {one.version}: {one.stage}{part}, {at} by {one.who}. {one.why}", markup=False)


def main() -> None:
    """Run a command; an error that names its case and way out needs no traceback."""
    try:
        app()
    except (HoldfastError, LedgerLost) as why:
        out.print(str(why), style="red", markup=False, soft_wrap=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
