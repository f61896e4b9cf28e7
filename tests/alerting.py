"""A real Prometheus, Alertmanager and pushgateway on free loopback ports, as tests start, steer, kill and read them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import free_port, wait_for

PROGRAMS = ("prometheus", "prometheus-alertmanager", "prometheus-pushgateway")
LACKING = [one for one in PROGRAMS if shutil.which(one) is None]
NO_ALERTING = "no {} here: install Debian's packages prometheus, prometheus-alertmanager and prometheus-pushgateway"

PROMETHEUS = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
alerting: {{alertmanagers: [{{static_configs: [{{targets: ['127.0.0.1:{alertmanager}']}}]}}]}}
rule_files: [rules.yml]
scrape_configs:
  - job_name: pushed
    honor_labels: true
    static_configs: [{{targets: ['127.0.0.1:{pushgateway}']}}]
"""
RULES = [
    {
        "alert": "QueueBacklog",
        "expr": "queue_depth > 100",
        "for": "2s",
        "labels": {"severity": "page"},
        "annotations": {
            "summary": "{{ $labels.queue }} holds {{ $value }}",
            "description": "It is worked slower than it fills.",
        },
    },
    {"alert": "HighErrorRate", "expr": "error_rate > 0.05", "labels": {"severity": "critical"}},
    {"alert": "DiskFilling", "expr": "disk_free_ratio < 0.1", "labels": {"severity": "warning"}},
]


class Program:
    """One of them; it keeps its port and its data when it is killed and started again."""

    def __init__(self, folder: Path, name: str, *options: str) -> None:
        self.port, self.name = free_port(), name
        self.url = f"http://127.0.0.1:{self.port}"
        self._log, self._folder = folder / f"{name}.log", folder
        self._command = [name, f"--web.listen-address=127.0.0.1:{self.port}", *options]

    def start(self) -> None:
        with self._log.open("a") as log:
            how: dict[str, Any] = {"stdout": log, "stderr": log, "cwd": self._folder, "start_new_session": True}
            self._process = subprocess.Popen(self._command, **how)
        wait_for(self._ready, 60, f"{self.name} ({self._log})")

    def _ready(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended: {self._log.read_text()}")
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/-/ready", trust_env=False).status_code == 200
        return False

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It does nothing meanwhile."""
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Alerting:
    """The three of them together; `source` is the URL of an agent's source."""

    def __init__(self, folder: Path, rules: Sequence[Mapping[str, Any]], route: Mapping[str, Any], resend: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        off = ("--cluster.listen-address=",)
        # Without this, Debian's keeps what is pushed in one file for all of them on a machine.
        self.pushgateway = Program(folder, "prometheus-pushgateway", "--persistence.file=")
        self.alertmanager = Program(
            folder, "prometheus-alertmanager", "--config.file=alertmanager.yml", "--storage.path=alertmanager", *off
        )
        self.prometheus = Program(
            folder,
            "prometheus",
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=tsdb",
            f"--rules.alert.resend-delay={resend}",
        )
        ports = {"alertmanager": self.alertmanager.port, "pushgateway": self.pushgateway.port}
        (folder / "prometheus.yml").write_text(PROMETHEUS.format(**ports))
        (folder / "rules.yml").write_text(json.dumps({"groups": [{"name": "tests", "rules": list(rules)}]}))
        (folder / "alertmanager.yml").write_text(json.dumps(dict(route)))
        self.source = f"alertmanager://127.0.0.1:{self.alertmanager.port}?prometheus={self.prometheus.url}"

    def start(self) -> None:
        for one in (self.pushgateway, self.alertmanager, self.prometheus):
            one.start()

    def kill(self) -> None:
        for one in (self.prometheus, self.alertmanager, self.pushgateway):
            one.kill()

    def push(self, *lines: str, job: str = "app") -> None:
        """Let these be the metrics of a job, such as `queue_depth{queue="mail"} 250`; no lines: it has none."""
        url = f"{self.pushgateway.url}/metrics/job/{job}"
        text = "".join(f"{line}\n" for line in lines)
        answer = httpx.put(url, content=text, trust_env=False) if lines else httpx.delete(url, trust_env=False)
        answer.raise_for_status()

    def alerts(self, *filters: str) -> list[dict[str, Any]]:
        """What Alertmanager shows, suppressed ones too."""
        return list(self._ask("GET", "/api/v2/alerts", params={"filter": list(filters)}))

    def firing(self, name: str, number: int = 1) -> list[dict[str, Any]]:
        """The alerts of this name, once there are as many."""
        return wait_for(
            lambda: found if len(found := self.alerts(f"alertname={name}")) == number else None, 60, f"{number} {name}"
        )  # type: ignore[return-value]

    def wait_quiet(self, name: str) -> None:
        """Until neither Alertmanager nor Prometheus has an alert of this name."""
        wait_for(lambda: not self.alerts(f"alertname={name}") and not self._pending(name), 60, f"the end of {name}")

    def _pending(self, name: str) -> bool:
        found = httpx.get(f"{self.prometheus.url}/api/v1/alerts", trust_env=False).json()["data"]["alerts"]
        return any(one["labels"]["alertname"] == name for one in found)

    def send(self, *alerts: Mapping[str, Any]) -> None:
        """Give alerts to Alertmanager as a Prometheus would."""
        self._ask("POST", "/api/v2/alerts", json=list(alerts))

    def silence(self, by: str = "ann", comment: str = "I look at it", minutes: float = 60, **labels: str) -> str:
        """Silence alerts with these labels; the silence's id."""
        now = datetime.now(UTC)
        matchers = [dict(name=name, value=value, isRegex=False, isEqual=True) for name, value in labels.items()]
        body = dict(matchers=matchers, createdBy=by, comment=comment, startsAt=now.isoformat())
        body |= dict(endsAt=(now + timedelta(minutes=minutes)).isoformat())
        return str(self._ask("POST", "/api/v2/silences", json=body)["silenceID"])

    def silences(self) -> list[dict[str, Any]]:
        return list(self._ask("GET", "/api/v2/silences"))

    def expire(self, silence: str) -> None:
        """End a silence now, as a person does with the button."""
        self._ask("DELETE", f"/api/v2/silence/{silence}")

    def _ask(self, method: str, path: str, **how: Any) -> Any:
        answer = httpx.request(method, f"{self.alertmanager.url}{path}", trust_env=False, timeout=30, **how)
        if answer.is_error:
            raise ValueError(answer.text)
        return answer.json() if answer.content else None


def _route(hook: str, inhibit: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    told = {"webhook_configs": [{"url": hook, "send_resolved": True}]} if hook else {}
    timing = {"group_wait": "1s", "group_interval": "3s", "repeat_interval": "1h"}
    return {
        "route": {"receiver": "hook", "group_by": ["alertname"], **timing},
        "receivers": [{"name": "hook", **told}],
        "inhibit_rules": list(inhibit),
    }


@contextlib.contextmanager
def alerting_in(
    folder: Path,
    rules: Sequence[Mapping[str, Any]] = RULES,
    *,
    hook: str = "",
    inhibit: Sequence[Mapping[str, Any]] = (),
    resend: str = "1m",
) -> Iterator[Alerting]:
    """All three, started; skips the test where they are not installed.

    `hook` is called by Alertmanager, `inhibit` holds its rules for that, and `resend` is how long Prometheus waits
    before it tells Alertmanager again of an alert that goes on.
    """
    if LACKING:
        pytest.skip(NO_ALERTING.format(LACKING[0]))
    found = Alerting(folder, rules, _route(hook, inhibit), resend)
    try:
        found.start()
        yield found
    finally:
        with contextlib.suppress(AttributeError):
            found.kill()
