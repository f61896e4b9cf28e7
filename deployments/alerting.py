"""A Prometheus, an Alertmanager and a pushgateway of our own, on free ports of loopback, with all state in a folder."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

from deployments.incident_tally import Firing, firings
from deployments.programs import ALERTMANAGER, PROMETHEUS, PUSHGATEWAY
from deployments.supervisor import Child, free_port
from tasks.errors import BadInput
from tasks.home import home

SECOND = "1s"  # between two scrapes, and between two evaluations of a rule
STARTING_SECONDS = 60.0


class Alerting:
    """The three programs; each is started again with the same state after it was killed."""

    def __init__(self, folder: Path, found: dict[str, Path], rules: Sequence[dict[str, Any]], ring: str, token: str):
        """`ring` is where Alertmanager tells of what it has, with this token."""
        self.folder, self._found = folder, found
        folder.mkdir(parents=True, exist_ok=True)
        self._ports = {name: free_port() for name in (PROMETHEUS, ALERTMANAGER, PUSHGATEWAY)}
        self.prometheus, self.alertmanager, self.pushgateway = (
            f"http://127.0.0.1:{port}" for port in self._ports.values()
        )
        for name, value in self._configurations(rules, ring, token).items():
            (folder / name).write_text(yaml.safe_dump(value, sort_keys=False))
        self.children = {name: Child(name, self._command(name), dict(os.environ)) for name in self._ports}
        self._http = httpx.Client(timeout=10)

    def _configurations(self, rules: Sequence[dict[str, Any]], ring: str, token: str) -> dict[str, Any]:
        def static(url: str) -> dict[str, Any]:
            return {"static_configs": [{"targets": [url.removeprefix("http://")]}]}

        bell = {"url": ring, "send_resolved": True, "http_config": {"authorization": {"credentials": token}}}
        return {
            "prometheus.yml": {
                "global": {"scrape_interval": SECOND, "evaluation_interval": SECOND},
                "alerting": {"alertmanagers": [static(self.alertmanager)]},
                "rule_files": ["rules.yml"],
                "scrape_configs": [{"job_name": "pushed", "honor_labels": True, **static(self.pushgateway)}],
            },
            "rules.yml": {"groups": [{"name": "services", "interval": SECOND, "rules": list(rules)}]},
            "alertmanager.yml": {
                "route": {
                    "receiver": "agent",
                    "group_by": ["alertname", "service"],
                    "group_wait": SECOND,
                    "group_interval": "2s",
                    "repeat_interval": "1h",
                },
                "receivers": [{"name": "agent", "webhook_configs": [bell]}],
                "inhibit_rules": [
                    {
                        "source_matchers": ["alertname = ServiceDown"],
                        "target_matchers": ["alertname != ServiceDown"],
                        "equal": ["service"],
                    }
                ],
            },
        }

    def _command(self, name: str) -> list[str]:
        listen = f"--web.listen-address=127.0.0.1:{self._ports[name]}"
        of = {
            PROMETHEUS: [
                f"--config.file={self.folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self.folder / 'tsdb'}",
                "--rules.alert.resend-delay=5s",  # a minute as a rule: so long an Alertmanager that restarts is empty
                f"--web.external-url={self.prometheus}",  # or its alerts would name the machine by a name of its own
            ],
            ALERTMANAGER: [
                f"--config.file={self.folder / 'alertmanager.yml'}",
                f"--storage.path={self.folder / 'alertmanager'}",
                f"--web.external-url={self.alertmanager}",
                "--cluster.listen-address=",  # it is alone, and shall talk to nobody
            ],
            PUSHGATEWAY: ["--persistence.file="],  # Debian's would share one file with every other on this machine
        }
        return [str(self._found[name]), listen, *of[name]]

    def remember(self, history: str) -> None:
        """Give Prometheus a past, in the OpenMetrics text format; only before it is started for the first time."""
        file = self.folder / "history.txt"
        file.write_text(history)
        command = [str(self._found["promtool"]), "tsdb", "create-blocks-from", "openmetrics", str(file)]
        done = subprocess.run([*command, str(self.folder / "tsdb")], capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise BadInput(f"promtool did not take the history in {file}: {done.stderr[-1500:]}")

    def start(self) -> None:
        """Start all three and wait until they are ready."""
        for child in self.children.values():
            child.keep()
        until = time.monotonic() + STARTING_SECONDS
        for name, url in zip(self._ports, (self.prometheus, self.alertmanager, self.pushgateway), strict=True):
            while not self._ready(url):
                process = self.children[name].process
                if time.monotonic() > until or (process and process.poll() is not None):
                    raise BadInput(f"{name} did not start; see {home() / 'logs' / name}.log.")
                time.sleep(0.1)

    def _ready(self, url: str) -> bool:
        try:
            return self._http.get(f"{url}/-/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def push(self, job: str, lines: str) -> None:
        """Replace all that the pushgateway shows of a job; what it does not take this time comes with the next."""
        try:
            answer = self._http.put(f"{self.pushgateway}/metrics/job/{job}", content=lines.encode())
        except httpx.HTTPError:
            return
        if answer.status_code >= 400:
            raise BadInput(f"The pushgateway refuses the metrics: {answer.text[:500]}")

    def firing(self) -> list[dict[str, Any]]:
        """What Alertmanager shows now, whatever its state."""
        found: list[dict[str, Any]] = self._http.get(f"{self.alertmanager}/api/v2/alerts").raise_for_status().json()
        return found

    def silences(self) -> list[dict[str, Any]]:
        """Every silence that Alertmanager knows, expired ones as well."""
        found: list[dict[str, Any]] = self._http.get(f"{self.alertmanager}/api/v2/silences").raise_for_status().json()
        return found

    def fired(self, since: float) -> list[Firing]:
        """Which alerts fired when since then, from the history that Prometheus keeps of them."""
        asked = {"query": f'ALERTS{{alertstate="firing"}}[{time.time() - since:.0f}s]'}
        answer = self._http.get(f"{self.prometheus}/api/v1/query", params=asked).raise_for_status().json()
        return firings(answer["data"]["result"])

    def stop(self) -> None:
        """End all three."""
        for child in self.children.values():
            child.stop()
        self._http.close()
