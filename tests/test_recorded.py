"""Stretches of real series become episodes whose truth is what people labelled, and nothing else."""

from __future__ import annotations

import csv
import json
import math
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from deployments.episodes import NEVER, history, rules
from deployments.recorded import BEFORE, LONG, recorded, stretches
from tasks.errors import BadInput

FIRST = datetime(2014, 2, 14, 14, 30)
STEP = timedelta(minutes=5)
POINTS = 600


def write(folder: Path, name: str, high: tuple[int, int], *labelled: tuple[int, int]) -> None:
    """A series that sways, and is high from one point to another; the labels are windows of points."""
    values = [10 + math.sin(point / 5) for point in range(POINTS)]
    values[slice(*high)] = [30.0 + point / 100 for point in range(high[1] - high[0])]
    file = folder / "data/some" / f"{name}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(["timestamp", "value"])
        rows.writerows([str(FIRST + STEP * point), value] for point, value in enumerate(values))
    windows = folder / "labels/combined_windows.json"
    windows.parent.mkdir(exist_ok=True)
    known = json.loads(windows.read_text()) if windows.exists() else {}
    known[f"some/{name}.csv"] = [[f"{FIRST + STEP * one}.000000" for one in window] for window in labelled]
    windows.write_text(json.dumps(known))


def test_the_truth_of_a_stretch_is_whether_people_labelled_some_of_it(tmp_path: Path) -> None:
    write(tmp_path, "ec2_cpu_strange", (400, 420), (410, 450))
    write(tmp_path, "ec2_cpu_fine", (400, 420), (430, 450))
    write(tmp_path, "elb_nothing-to-see", (500, 500 + LONG))
    write(tmp_path, "elb_too_short", (500, 500 + LONG - 1), (490, 550))
    write(tmp_path, "elb_while_it_learns", (50, 80), (50, 80))
    found = {one.series: one for one in stretches(tmp_path)}
    truths = {name: one.labelled for name, one in found.items()}
    assert truths == {"ec2_cpu_strange": True, "ec2_cpu_fine": False, "elb_nothing_to_see": False}
    assert (found["ec2_cpu_fine"].start, found["ec2_cpu_fine"].stop) == (400, 420)


def test_an_episode_plays_what_was_measured_and_prometheus_remembers_what_was_before(tmp_path: Path) -> None:
    write(tmp_path, "ec2_cpu_strange", (400, 420), (410, 450))
    write(tmp_path, "rds_cpu_fine", (400, 420))
    for seed in range(10):
        needed, other = sorted(recorded(tmp_path, seed), key=lambda one: not one.actionable)
        assert (needed.name, other.name) == (("CpuHigh", "ec2_cpu_strange"), ("DatabaseCpuHigh", "rds_cpu_fine"))
        assert (needed.ends, other.ends) == (NEVER, other.begins + 40)
        for one in (needed, other):
            times = [second / 4 for second in range(400)]
            assert all(one.value(at) <= one.threshold for at in times if at < one.begins or at >= one.ends)
            assert one.value(one.begins) == 30.0 and one.value(one.begins + 39) == pytest.approx(30.19)
            assert one.value(80, mended=70) <= one.threshold
            agos = [ago for ago, _ in one.past]
            assert len(agos) == BEFORE and agos == sorted(agos, reverse=True)
            assert {before - after for before, after in pairwise(agos)} == {300.0}
    assert len(rules(recorded(tmp_path, 1))) == 2 and history(recorded(tmp_path, 1), 1e9).endswith("# EOF\n")


def test_a_folder_that_is_no_copy_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no copy of NAB"):
        recorded(tmp_path, 1)
    write(tmp_path, "ec2_cpu_strange", (400, 420), (410, 450))
    with pytest.raises(BadInput, match="not both"):
        recorded(tmp_path, 1)
