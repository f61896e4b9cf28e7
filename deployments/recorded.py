"""Episodes from real metrics: stretches of the Numenta Anomaly Benchmark whose truth people have labelled."""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import NamedTuple

from deployments.episodes import NEVER, Episode
from tasks.errors import BadInput

EPISODES, ACTIONABLE = 12, 5
SPREAD = 24.0  # seconds in which all of them begin
LEARNT = 0.15  # of each series NAB gives its detectors to learn from, and judges nothing there
BEFORE = 150  # points that set the threshold, and Prometheus's memory of what was
SIGMAS = 2.5  # above their mean: what somebody who looked at the last hours would write into a rule
LONG, QUIET = 6, 15  # points above the threshold, and below it before
POINT_SECONDS = 2.0  # in which one point is played; most are five real minutes apart
PLAYED = 60.0  # seconds of what goes on for longer: by then the demonstration is over
HOLD = 1
ALERTS = {
    "ec2_cpu": "CpuHigh",
    "cpu_": "CpuHigh",
    "rds_cpu": "DatabaseCpuHigh",
    "elb_": "RequestsHigh",
    "ec2_disk": "DiskWritesHigh",
    "ec2_network": "NetworkInHigh",
    "iio_": "NetworkInHigh",
    "ec2_request": "LatencyHigh",
    "exchange": "AdCostHigh",
    "occupancy": "RoadOccupancyHigh",
    "speed": "RoadSpeedHigh",
    "TravelTime": "TravelTimeHigh",
    "machine_": "TemperatureHigh",
    "ambient_": "TemperatureHigh",
}


class Stretch(NamedTuple):
    """Points of a series that are all above a threshold."""

    series: str
    times: Sequence[float]
    values: Sequence[float]
    threshold: float
    usual: float
    start: int
    stop: int
    labelled: bool
    """Whether it overlaps what people labelled as an anomaly."""


def recorded(folder: Path, seed: int) -> list[Episode]:
    """Some stretches above their threshold, each of a series of its own; what is labelled stays until it is mended.

    Args:
        folder: A copy of NAB, with `data/*/*.csv` and `labels/combined_windows.json`.
        seed: Draws the stretches and when they begin.
    """
    dice, found = random.Random(f"recorded {seed}"), stretches(folder)
    dice.shuffle(found)
    # One for each series; what people labelled comes first, and the draw is shuffled again below.
    chosen: dict[str, Stretch] = {}
    for wanted, most in ((True, ACTIONABLE), (False, EPISODES)):
        for one in found:
            if one.labelled == wanted and one.series not in chosen and len(chosen) < most:
                chosen[one.series] = one
    episodes = [_episode(one, dice.uniform(2, SPREAD)) for one in chosen.values()]
    if len({one.actionable for one in episodes}) < 2:
        raise BadInput(f"{folder} has not both, stretches that people labelled and others. Is it a whole copy of NAB?")
    return sorted(episodes, key=lambda one: one.begins)


def stretches(folder: Path) -> list[Stretch]:
    """All that a threshold drawn from the points before would have raised an alert for, in the order of the files."""
    try:
        windows = json.loads((folder / "labels/combined_windows.json").read_text())
        files = sorted((folder / "data").glob("*/*.csv"))
    except (OSError, ValueError) as why:
        raise BadInput(
            f"{folder} is no copy of NAB ({why}). It has data/*/*.csv and labels/combined_windows.json."
        ) from why
    found: list[Stretch] = []
    for file in files:
        labelled = windows.get(f"{file.parent.name}/{file.name}")
        if labelled is not None:
            spans = [(_seconds(first), _seconds(last)) for first, last in labelled]
            found += _of_series(file, spans)
    return found


def _of_series(file: Path, spans: list[tuple[float, float]]) -> list[Stretch]:
    with file.open() as lines:
        rows = [(_seconds(row["timestamp"]), float(row["value"])) for row in csv.DictReader(lines)]
    times, values = [at for at, _ in rows], [value for _, value in rows]
    series, found = re.sub(r"\W", "_", file.stem), []
    place = max(int(len(values) * LEARNT), BEFORE)
    while place < len(values):
        before = values[place - BEFORE : place]
        threshold, stop = fmean(before) + SIGMAS * pstdev(before), place
        while stop < len(values) and values[stop] > threshold:
            stop += 1
        if stop - place >= LONG and max(before[-QUIET:]) <= threshold:
            labelled = any(times[place] <= last and times[stop - 1] >= first for first, last in spans)
            found.append(Stretch(series, times, values, threshold, median(before), place, stop, labelled))
        place = stop + 1
    return found


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp[:19]).timestamp()


def _episode(one: Stretch, begins: float) -> Episode:
    alert = next((alert for prefix, alert in ALERTS.items() if one.series.startswith(prefix)), "ValueHigh")
    ahead = int(begins / POINT_SECONDS) + 1
    long = (one.stop - one.start) * POINT_SECONDS

    def usual(at: float) -> float:
        # Afterwards it rests: what the series did next may be an alert whose truth is another.
        return one.values[one.start - 1 - int((begins - at) / POINT_SECONDS)] if at < begins else one.usual

    def unusual(since: float) -> float:
        return one.values[min(one.start + int(since / POINT_SECONDS), one.stop - 1)]

    first = one.start - ahead
    return Episode(
        alert=alert,
        service=one.series,
        severity="warning",
        metric=re.sub(r"(?<=[a-z])(?=[A-Z])", "_", alert.removesuffix("High")).lower(),
        threshold=float(f"{one.threshold:.6g}"),
        hold=HOLD,
        summary="The metric is unusually high",
        actionable=one.labelled,
        truth="people labelled this as an anomaly" if one.labelled else "people found nothing strange in it",
        begins=begins,
        ends=NEVER if one.labelled or long > PLAYED else begins + long,
        usual=usual,
        unusual=unusual,
        past=[(one.times[first] - one.times[at], one.values[at]) for at in range(max(0, first - BEFORE), first)],
    )
