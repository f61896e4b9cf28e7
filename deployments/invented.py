"""Invents the episodes of a bad minute in a shop: what needs a person, and what looks like it and does not."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

from deployments.episodes import NEVER, Episode

SERVICES = (
    *("basket", "catalogue", "checkout", "gateway", "images", "invoices", "login", "mailer", "payments", "reports"),
    *("reviews", "search", "shipping", "stock", "vouchers", "wishlist"),
)
SPREAD = 18.0  # seconds in which all of them begin
PAST_SECONDS, PAST_STEP = 6 * 3600.0, 30.0  # real rate; what follows plays hours in seconds
PERIOD, DOWN = 10.0, 6.0  # of something that flaps


class Kind(NamedTuple):
    """An alerting rule as a shop would have it."""

    metric: str
    threshold: float
    severity: str
    hold: int
    summary: str
    usual: float
    """The metric on a good day, as a share of the threshold."""
    most: float = math.inf


KINDS = {
    "QueueBacklog": Kind("job_queue_depth", 200, "warning", 3, "Jobs wait in the queue", 0.15),
    "ErrorRatio": Kind("http_error_ratio", 0.05, "critical", 3, "Requests fail", 0.1, 1.0),
    "DiskFilling": Kind("disk_used_ratio", 0.9, "warning", 3, "The disk fills", 0.55, 0.999),
    "MemoryHigh": Kind("process_memory_megabytes", 1800, "warning", 3, "The memory grows", 0.5, 4096),
    "SlowResponses": Kind("http_request_p99_seconds", 1.5, "warning", 2, "Requests take long", 0.2),
    "LinkErrors": Kind("network_link_errors_per_second", 10, "warning", 1, "The link loses packets", 0.02),
    "BusyCpu": Kind("cpu_busy_ratio", 0.85, "warning", 1, "The processors are busy", 0.5, 1.0),
    "ServiceDown": Kind("probe_failures_in_a_row", 3, "critical", 1, "Probes find nobody", 0.0),
    "CertificateExpires": Kind("certificate_age_days", 60, "info", 1, "The certificate will be renewed soon", 0.99, 90),
    "BackupOld": Kind("backup_age_hours", 24, "info", 1, "The newest backup is a day old", 0.97, 48),
}
# Each: the alert, how its metric moves, and the truth. What ends by itself is nobody's work.
NEEDED = (
    ("QueueBacklog", "growth", "the workers hang, and the queue grows until somebody starts them again"),
    ("ErrorRatio", "outage", "a broken release is out"),
    ("DiskFilling", "growth", "nothing deletes the old files"),
    ("MemoryHigh", "growth", "a leak: the kernel will end it"),
    ("SlowResponses", "outage", "the database lost an index"),
    ("LinkErrors", "flapping", "a cable is loose: it comes and goes until somebody plugs it in"),
    ("ServiceDown", "count", "the service is gone"),
)
NOT_NEEDED = (
    ("QueueBacklog", "burst", "an import brings many jobs at once, and the workers get through them"),
    ("SlowResponses", "burst", "a cache is cold for a moment"),
    ("BusyCpu", "burst", "a report is computed"),
    ("BusyCpu", "burst", "pictures are scaled"),
    ("CertificateExpires", "creep", "it renews itself"),
    ("BackupOld", "creep", "the next one is on its way"),
)
INHIBITED = ("SlowResponses", "outage", "its service is down, and a person is called for that")


def invented(seed: int) -> list[Episode]:
    """Episodes in the order in which they begin; the seed draws services, times, sizes, and leaves some out."""
    dice = random.Random(seed)
    services = list(SERVICES)
    dice.shuffle(services)
    chosen = [(*one, True) for one in dice.sample(NEEDED[:-1], len(NEEDED) - 2)]
    chosen += [(*one, False) for one in dice.sample(NOT_NEEDED, len(NOT_NEEDED) - 1)]
    found = [
        _episode(dice, alert, shape, truth, needed, services.pop(), dice.uniform(0, SPREAD))
        for alert, shape, truth, needed in chosen
    ]
    service, down = services.pop(), dice.uniform(0, SPREAD / 2)
    found.append(_episode(dice, *NEEDED[-1], True, service, down))
    slow = _episode(dice, *INHIBITED, False, service, down + dice.uniform(10, 12))
    # It ends before what inhibits it, or it would rightly become a case of its own.
    found.append(slow._replace(ends=slow.begins + dice.uniform(9, 12), inhibited=True))
    return sorted(found, key=lambda one: one.begins)


def _episode(
    dice: random.Random, alert: str, shape: str, truth: str, needed: bool, service: str, begins: float
) -> Episode:
    kind, phase = KINDS[alert], dice.uniform(0, 6)
    level, peak, rise = kind.usual * kind.threshold, dice.uniform(1.4, 2.4), dice.uniform(4, 8)
    long = dice.uniform(10, 15)

    def bounded(value: float) -> float:
        return max(0.0, min(value, kind.most))

    def usual(at: float) -> float:
        sway = 0.1 if kind.usual < 0.9 else 0.005  # what comes near its threshold by itself sways less
        return bounded(level * (1 + sway * math.sin(at / 3 + phase) + sway * math.sin(at * 1.7 + phase)))

    def unusual(since: float) -> float:
        share = {
            "growth": since / rise,
            "outage": peak * min(1.0, (since + 1) / 3),
            "burst": peak * math.sin(math.pi * min(1.0, since / long)) ** 0.5,
            "flapping": peak if since % PERIOD < DOWN else 0.0,
            "count": since / 3,
            "creep": 1.001 + since / 10_000,
        }[shape]
        swing = 1 + 0.03 * math.sin(since * 2.1 + phase) * (shape in ("outage", "burst"))
        return bounded(max(share * kind.threshold * swing, level))

    # Most that ends by itself did so before, and some is new. Some that is real had come and gone before, too.
    times = dice.choice((0, 4, 5, 6, 7)) if shape == "burst" else dice.choice((0, 0, 0, 1, 2)) * needed
    bursts = [(dice.uniform(900, PAST_SECONDS - 900), dice.uniform(120, 300)) for _ in range(times)]

    def before(ago: float) -> float:
        if any(0 <= began - ago < lasted for began, lasted in bursts):
            return bounded(kind.threshold * peak)
        slow = 1 - 0.4 * ago / PAST_SECONDS if shape == "growth" else 1.0
        return usual(-ago) * slow

    steps = int(PAST_SECONDS / PAST_STEP)
    return Episode(
        alert=alert,
        service=service,
        severity=kind.severity,
        metric=kind.metric,
        threshold=kind.threshold,
        hold=kind.hold,
        summary=kind.summary,
        actionable=needed,
        truth=truth,
        begins=begins,
        ends=begins + long if shape == "burst" else NEVER,
        usual=usual,
        unusual=unusual,
        flaps=shape == "flapping",
        past=[(ago, before(ago)) for ago in (PAST_STEP * step for step in range(steps, 0, -1))],
    )
