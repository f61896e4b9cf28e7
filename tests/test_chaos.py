"""The chaos suite's short form, and proof that its judge would see what it looks for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.inbox import INCIDENTS
from tests.chaos.oracle import Mail, Verdict
from tests.chaos.plan import CATALOGUE, DOORS, plan
from tests.chaos.witness import Line
from tests.conftest import NO_POSTGRES, PROJECT
from tests.servers import INITDB

EVERY_DOORWAY = len(CATALOGUE) + len(CATALOGUE) // 9 + 1
SQLITE_AND_POSTGRES = ["sqlite", pytest.param("postgres", marks=pytest.mark.skipif(INITDB is None, reason=NO_POSTGRES))]


def play(kept: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.chaos", "--json", str(kept), *words]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return dict(json.loads(kept.read_text())) | {"said": done.stdout}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("db", SQLITE_AND_POSTGRES)
def test_a_kill_at_any_doorway_repeats_nothing_and_loses_nothing(tmp_path: Path, db: str) -> None:
    of = 1 if db == "sqlite" else 3  # every third one: `make chaos DB=postgres` takes all
    words = ("--level", "each", "--db", db, "--jobs", "2", "--seed", "7", "--shard", f"1/{of}")
    found = play(tmp_path / "figures", *words, "--n", str(EVERY_DOORWAY))
    assert found["each"]["scenarios"] >= len(CATALOGUE) // of and found["kills"] >= len(CATALOGUE) // of
    assert not any(found[name] for name in ("duplicates", "lost", "steps_run_again", "calls_paid_twice"))
    assert found["unknown"] > 0, "mail servers can not be asked, so some effects must have been in doubt"
    if db == "sqlite":
        more = play(tmp_path / "figures", *words, "--n", str(EVERY_DOORWAY + 1))
        assert more["each"]["scenarios"] == found["each"]["scenarios"] + 1
        assert "were played before; going on" in more["said"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("db", ["sqlite"])
def test_the_incident_agent_killed_at_these_doorways_calls_a_person_once_for_each_episode(
    tmp_path: Path, db: str
) -> None:
    words = ("--level", "each", "--db", db, "--jobs", "2", "--seed", "11", "--skill", INCIDENTS, "--n", "13")
    found = play(tmp_path / "figures", *words)
    assert found["each"]["scenarios"] >= 11 and found["kills"] >= 11
    assert not any(found[name] for name in ("duplicates", "lost", "steps_run_again", "calls_paid_twice"))


def test_every_doorway_comes_before_chance_and_a_seed_tells_everything() -> None:
    plans = [plan(3, number) for number in range(1, EVERY_DOORWAY + 1)]
    seen = {door.rpartition(":")[0] for one in plans for door in one.doors}
    assert set(DOORS) <= seen and [plan(3, number) for number in range(1, EVERY_DOORWAY + 1)] == plans
    assert {one.kind for one in plans if one.level == "each"} == {kind for kind, _, _ in CATALOGUE}


def lines(*said: tuple[int, str, str]) -> list[Line]:
    return [Line(float(at), pid, word, rest) for at, (pid, word, rest) in enumerate(said)]


def test_the_judge_sees_a_finished_step_that_runs_again() -> None:
    once = ((1, "run", "1 key"), (1, "done", "1 key"), (1, "kept", "1 key"))
    verdict = Verdict(1)
    verdict.judge_steps(lines(*once, (2, "run", "3 key"), (2, "done", "3 key")), {1})
    assert (verdict.steps_run_again, verdict.calls_paid_twice) == (1, 1) and len(verdict.wrong) == 2


def test_the_judge_sees_a_step_that_runs_again_although_its_process_died_between_commit_and_answer() -> None:
    verdict, log = Verdict(1), lines((1, "run", "1 key"), (1, "done", "1 key"), (2, "run", "3 key"))
    verdict.judge_steps(log, {1})
    assert verdict.wrong == []
    verdict.judge_ledger(log, {"key": 1}, Counter(settled=1), 0)
    assert verdict.steps_run_again == 1


def test_the_judge_excuses_a_second_payment_only_where_the_first_process_was_cut_down() -> None:
    log = lines((1, "run", "1 key"), (1, "done", "1 key"), (2, "run", "3 key"), (2, "done", "3 key"))
    excused, not_excused = Verdict(1), Verdict(2)
    excused.judge_steps(log, {1})
    not_excused.judge_steps(log, set())
    assert (excused.calls_cut_short, excused.calls_paid_twice, excused.wrong) == (1, 0, [])
    assert not_excused.calls_paid_twice == 1


def test_the_judge_excuses_a_call_that_a_frozen_process_ends_late_but_not_one_that_it_begins_late() -> None:
    frozen, other = (1, "run", "1 key"), ((2, "run", "3 key"), (2, "done", "3 key"), (2, "kept", "3 key"))
    ended_late, begun_late = Verdict(1), Verdict(2)
    ended_late.judge_steps(lines(frozen, *other, (1, "done", "1 key")), {1})
    begun_late.judge_steps(lines(*other, frozen, (1, "done", "1 key")), {1})
    assert (ended_late.calls_cut_short, ended_late.wrong) == (1, [])
    assert (begun_late.steps_run_again, begun_late.calls_paid_twice) == (1, 1)


def test_the_judge_sees_a_mail_too_many_and_one_too_few() -> None:
    verdict, one, other = Verdict(1), Mail("<1>", "a", "s"), Mail("<2>", "b", "s")
    verdict.judge_mails(Counter({one: 1, other: 1}), Counter({one: 2}))
    assert (verdict.duplicates, verdict.lost) == (1, 1)
