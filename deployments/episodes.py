"""What an episode of an alert is, with its truth, and how all of them look to Prometheus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

NEVER = float("inf")


class Episode(NamedTuple):
    """Something that happens to a service and raises an alert; the agent never hears whether it is actionable."""

    alert: str
    service: str
    severity: str
    metric: str
    threshold: float
    hold: int
    """Seconds above the threshold before it fires."""
    summary: str
    actionable: bool
    truth: str
    """Why a person is needed, or not."""
    begins: float
    """Seconds after the start."""
    ends: float
    """NEVER: it stays until a person mends it."""
    usual: Callable[[float], float]
    """The metric at a second after the start, if nothing happens."""
    unusual: Callable[[float], float]
    """The same while it happens, by seconds after it began."""
    past: Sequence[tuple[float, float]] = ()
    """What was before the start: seconds before it, and the value; oldest first."""
    flaps: bool = False
    """It ends and begins again by itself, and is an episode each time until the agent knows that it only flaps."""
    inhibited: bool = False
    """It fires in Prometheus, and another alert keeps Alertmanager from telling of it."""

    @property
    def name(self) -> tuple[str, str]:
        """What tells it from all others."""
        return self.alert, self.service

    @property
    def labels(self) -> dict[str, str]:
        """All that its alert will have."""
        return {"alertname": self.alert, "severity": self.severity, "service": self.service, "job": self.service}

    def value(self, at: float, mended: float = NEVER) -> float:
        """The metric at a second after the start, when everything was mended at another."""
        return self.unusual(at - self.begins) if self.begins <= at < min(self.ends, mended) else self.usual(at)


def rules(episodes: Sequence[Episode]) -> list[dict[str, Any]]:
    """Prometheus's alerting rules: one for an alert, or one for each service where the thresholds differ."""
    of: dict[str, dict[float, list[Episode]]] = defaultdict(lambda: defaultdict(list))
    for one in episodes:
        of[one.alert][one.threshold].append(one)
    found = []
    for alert, by_threshold in sorted(of.items()):
        for threshold, same in sorted(by_threshold.items()):
            first, names = same[0], "|".join(sorted(one.service for one in same))
            only = f'{{service=~"{names}"}}' if len(by_threshold) > 1 else ""
            rule: dict[str, Any] = {"alert": alert, "expr": f"{first.metric}{only} > {threshold:g}"}
            rule |= {"for": f"{first.hold}s", "labels": {"severity": first.severity}}
            rule["annotations"] = {
                "summary": f"{first.summary} of {{{{ $labels.service }}}}",
                "description": f"{first.metric} is {{{{ $value }}}}, more than {threshold:g}.",
            }
            found.append(rule)
    return found


def exposition(episodes: Sequence[Episode], at: float, mended: float = NEVER) -> str:
    """The metrics of these at a second after the start, as a pushgateway takes them."""
    return _by_metric(episodes, lambda one: [f'{{service="{one.service}"}} {one.value(at, mended):.6g}'])


def by_service(episodes: Sequence[Episode]) -> dict[str, list[Episode]]:
    """Each service pushes for itself, as the job of its name."""
    of: dict[str, list[Episode]] = defaultdict(list)
    for one in episodes:
        of[one.service].append(one)
    return of


def history(episodes: Sequence[Episode], start: float) -> str:
    """All that was before the start as OpenMetrics, with the alerts that Prometheus would have noted then."""

    def samples(one: Episode) -> list[str]:
        return [
            f'{{service="{one.service}",job="{one.service}"}} {value:.6g} {start - ago:.3f}' for ago, value in one.past
        ]

    alerts = []
    for one in episodes:
        labels = f'alertname="{one.alert}",alertstate="firing",job="{one.service}",service="{one.service}"'
        alerts += [
            f'ALERTS{{{labels},severity="{one.severity}"}} 1 {start - ago:.3f}'
            for ago, value in one.past
            if value > one.threshold
        ]
    noted = "\n".join(["# TYPE ALERTS gauge", *alerts, ""]) if alerts else ""
    return f"{_by_metric(episodes, samples)}{noted}# EOF\n"


def _by_metric(episodes: Sequence[Episode], samples: Callable[[Episode], list[str]]) -> str:
    """Prometheus wants all samples of one metric together."""
    of: dict[str, list[str]] = defaultdict(list)
    for one in episodes:
        of[one.metric] += [f"{one.metric}{sample}" for sample in samples(one)]
    return "".join("\n".join([f"# TYPE {metric} gauge", *lines, ""]) for metric, lines in sorted(of.items()))
