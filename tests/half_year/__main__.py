"""26 weeks of a support desk with and without its review, through the real loop, ledger and review flows.

    python -m tests.half_year --data DIR --target 0.08 --seed 1 --json out.json

Time is simulated: this process's `time.time` stands in the week that is played, so outcomes, audits and windows fall
where they would. Everything else is real: a mail folder, ticks, steps, effects, verdicts, reviews. People answer what
they are asked within a day, and whoever takes a case over says what it was about; both are always right.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from prefect.settings import PREFECT_API_URL, temporary_settings
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, func, select

from flows import loop
from flows import review as reviewing
from flows.review import review
from tasks.charts import Point, over_time
from tasks.ledger import the_ledger
from tasks.ledger.reviewed import WEEK, begins, name_of, week_of
from tasks.ledger.tables import audits, cases, outcomes, verdicts
from tasks.ledger.thresholds import threshold_of
from tasks.ledger.verdicts import Statement, hand_in
from tasks.meaning import recipe
from tasks.offline import UNKNOWN
from tasks.records import Agent
from tests.half_year.desk import _knowledge as known
from tests.half_year.desk import half_year as skill
from tests.half_year.mail import PER_WEEK, WEEKS, HalfYear, deliver, half_year, knowledge
from tests.servers import prefect_server_in

AGENT, SKILL = "bank", "half-year"
START = (
    0.3  # the threshold of the first week, so that it errs as often as people told of such agents: a choice, no finding
)
out = Console(highlight=False, width=118)


class Told(NamedTuple):
    """A week as it really was: every case's truth is known here."""

    week: int
    threshold: float
    cases: int
    acted: int
    wrong: int
    labels: int
    """Verdicts that people have given up to its end."""
    state: str
    """How its review ended."""


class Clock:
    """This process's wall clock, moved."""

    def __init__(self) -> None:
        self.offset, self._real = 0.0, time.time

    def now(self) -> float:
        return self._real() + self.offset

    def stand_at(self, moment: float) -> None:
        self.offset = moment - self._real()


def tick(folder: Path) -> None:
    """One run of the loop that works the week's mail."""
    effects = {"reply": f"maildir:{folder}/sent", "hand_over": f"maildir:{folder}/handover"}
    agent = Agent(
        name=AGENT, source=f"maildir:{folder}/inbox", skills=[SKILL], effects=effects, threshold=START, batch=2000
    )
    here: dict[str, Any] = {"catalogue": lambda: {SKILL: Path(__file__)}, "skill_flow": lambda *_: skill}
    with patch.multiple(loop, describe=lambda _: "Answer.", **here):
        asyncio.run(loop.agent_loop(agent, dry_run=False))


def people_answer(truth: dict[str, str]) -> None:
    """Say what was asked for, and of each case that was handed over what it is about."""

    def answer(c: Connection) -> None:
        known = select(verdicts.c.outcome)
        found = (
            select(outcomes.c.case, outcomes.c.answer, cases.c.key)
            .join(cases, cases.c.id == outcomes.c.case)
            .join(audits, audits.c.outcome == outcomes.c.id, isouter=True)
            .where((outcomes.c.kind == "handed_over") | (audits.c.outcome.is_not(None)), outcomes.c.id.not_in(known))
        )
        rows = c.execute(found).all()
        said = [
            Statement(row.case, row.answer == truth[row.key] != UNKNOWN, truth[row.key], "", "people") for row in rows
        ]
        for start in range(0, len(said), 500):
            hand_in(c, said[start : start + 500])

    the_ledger().write_now("people answer", answer)


def counted(week: int, truth: dict[str, str], threshold: float, state: str) -> Told:
    """A week's outcomes beside the truth."""

    def read(c: Connection) -> Told:
        start = begins(week)
        mine = (outcomes.c.at >= start, outcomes.c.at < start + WEEK)
        found = select(outcomes.c.kind, outcomes.c.answer, cases.c.key).join(cases, cases.c.id == outcomes.c.case)
        rows = c.execute(found.where(*mine)).all()
        acted = [row for row in rows if row.kind == "acted"]
        wrong = sum(row.answer != truth[row.key] for row in acted)
        labels = c.execute(select(func.count()).select_from(verdicts)).scalar_one()
        return Told(week, threshold, len(rows), len(acted), wrong, labels, state)

    return the_ledger().read_now("count the week", read)


def play(year: HalfYear, folder: Path, clock: Clock, target: float | None, sure: float, budget: int) -> list[Told]:
    """Half a year; without a target there is no review."""
    truth: dict[str, str] = {}
    found, last = [], week_of(clock._real())
    for number, questions in enumerate(year.weeks):
        week = last - len(year.weeks) + number
        clock.stand_at(begins(week) + 3_600)
        truth |= deliver(folder / "inbox", number, questions)
        threshold = the_ledger().read_now("look", lambda c: threshold_of(c, AGENT, SKILL))
        tick(folder)
        state = ""
        if target is not None:
            clock.stand_at(begins(week) + 86_400 + 3_600)
            people_answer(truth)  # of what they took over
            until = datetime.fromisoformat(name_of(week + 1)).date()
            since = datetime.fromisoformat(name_of(max(week - 7, last - len(year.weeks)))).date()
            # On Monday it asks people, on Tuesday it counts what they said and changes what it may.
            for day, change in ((0, False), (1, True)):
                clock.stand_at(begins(week + 1) + day * 86_400 + 3_600)
                given: dict[str, Any] = dict(since=since, until=until, audits=budget, target=target)
                given |= dict(sure=sure, change=change)
                with patch.object(reviewing, "knowledge_of", lambda _: known()):
                    state = asyncio.run(review(AGENT, **given, return_state=True)).name or ""
                people_answer(truth)
        found.append(counted(week, truth, START if threshold is None else threshold, state))
        out.print(_line(found[-1], number + 1), soft_wrap=True)
    return found


def _line(one: Told, number: int) -> str:
    rate = one.wrong / max(one.acted, 1)
    alarm = "  alarm" if one.state == "Alarm" else ""
    return (
        f"week {number:2d}  acts from {one.threshold:.2f}  acted on {one.acted} of {one.cases} "
        f"({one.acted / one.cases:.0%})  wrong {one.wrong} ({rate:.1%}){alarm}"
    )


@contextmanager
def house(year: HalfYear, api: str) -> Iterator[Path]:
    """A folder with a ledger, inbox and knowledge of its own."""
    with tempfile.TemporaryDirectory(prefix="half-year-") as name:
        folder = Path(name)
        (folder / "knowledge.json").write_text(knowledge(year))
        os.environ |= {
            "HOLDFAST_HOME": name,
            "HOLDFAST_LEDGER": f"sqlite:///{folder}/ledger.db",
            "PREFECT_API_URL": api,
        }
        os.environ |= {"HALF_YEAR_KNOWLEDGE": str(folder / "knowledge.json")}
        os.environ.pop("ANTHROPIC_API_KEY", None)
        yield folder


def rate(weeks: list[Told]) -> tuple[int, int, int]:
    """Wrong, acted and all of some weeks."""
    return sum(one.wrong for one in weeks), sum(one.acted for one in weeks), sum(one.cases for one in weeks)


def summary(name: str, weeks: list[Told]) -> list[str]:
    first, final = rate(weeks[:1]), rate(weeks[-4:])
    peak = max(weeks[1:], key=lambda one: one.wrong / max(one.acted, 1))
    dip = min(weeks[1:], key=lambda one: one.acted / one.cases)
    return [
        name,
        f"{first[0] / first[1]:.1%} of {first[1]}, coverage {first[1] / first[2]:.0%}",
        f"{final[0] / max(final[1], 1):.1%} of {final[1]}, coverage {final[1] / final[2]:.0%}",
        f"{dip.acted / dip.cases:.0%} in week {weeks.index(dip) + 1}",
        f"{peak.wrong / max(peak.acted, 1):.1%} in week {weeks.index(peak) + 1}",
        f"{weeks[-1].labels:,} of {sum(one.cases for one in weeks):,}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Half a year of a support desk, with and without its review.")
    parser.add_argument("--data", type=Path, required=True, help="The folder with banking77/ and clinc150/.")
    parser.add_argument("--target", type=float, default=0.08)
    parser.add_argument("--sure", type=float, default=0.9, help="With which a threshold keeps the target.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--audits", type=int, default=150, help="Cases a week that people are asked about.")
    parser.add_argument("--drift", action="store_true", help="20 of the 77 intents come up in week 8 and later only.")
    parser.add_argument("--weeks", type=int, default=WEEKS)
    parser.add_argument("--mails", type=int, default=PER_WEEK, help="Of a week.")
    parser.add_argument("--alone", action="store_true", help="Leave out the half-year without a review.")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    year, clock, began = (
        half_year(given.data, given.seed, given.drift, given.weeks, given.mails),
        Clock(),
        time.monotonic(),
    )
    found: dict[str, list[Told]] = {}
    with tempfile.TemporaryDirectory(prefix="half-year-") as prefect, prefect_server_in(Path(prefect)) as api:
        logging.disable(logging.WARNING)  # a line for each step of ten thousand cases
        with temporary_settings({PREFECT_API_URL: api}), patch("time.time", clock.now):
            for name, target in (("with the review", given.target), ("without it", None)):
                if target is None and given.alone:
                    continue
                out.print(f"\n[bold]{name}[/bold]")
                with house(year, api) as folder:
                    found[name] = play(year, folder, clock, target, given.sure, given.audits)
    columns = (
        "seed",
        "wrong of acted in week 1",
        f"in weeks {max(given.weeks - 3, 1)} to {given.weeks}",
        "lowest coverage",
        "highest wrong",
        "labels",
    )
    table = Table(*columns, title=f"target {given.target:.0%}{', drift' if given.drift else ''}", title_justify="left")
    for name, weeks in found.items():
        table.add_row(*summary(f"{given.seed}, {name}", weeks))
    table.caption = f"embedded model {recipe() or 'without word vectors'}"
    out.print(table)
    machine = f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"
    out.print(
        f"{machine}, {datetime.now(UTC):%Y-%m-%d}; {time.monotonic() - began:.0f} s; order and time are simulated"
    )
    if given.json:
        kept = {name: [one._asdict() for one in weeks] for name, weeks in found.items()}
        given.json.write_text(
            json.dumps(vars(given) | {"data": "", "json": "", "vectors": recipe(), "weeks": kept}) + "\n"
        )
        points = [
            Point(str(number), one.wrong / max(one.acted, 1), 0.0, 0.0)
            for number, one in enumerate(found["with the review"], 1)
        ]
        picture = over_time(points, "Wrong of what was acted on, by week (truth)", given.target)
        given.json.with_suffix(".png").write_bytes(picture)


if __name__ == "__main__":
    main()
