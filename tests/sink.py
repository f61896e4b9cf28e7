"""A receiver of webhooks in a process of its own: writes down every request, and takes the same Idempotency-Key once.

What the path begins with says how it goes on after that: `/status/503` answers so, `/cut` hangs up, `/strict` answers
409 to a key that it has, `/elsewhere` points to `/moved`. While there is a file `hold` beside the log, nobody gets an
answer; a file `waiting` says that somebody waits for one. Run as `python -S -m tests.sink PORT LOG`.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, log: Path) -> None:
        self.log, self.lock, self.keys = log, threading.Lock(), set[str]()
        super().__init__(("127.0.0.1", port), _Request)


class _Request(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.say(200, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode("utf-8", "replace")
        key = self.headers.get("Idempotency-Key", "")
        entry = {"path": self.path, "key": key, "body": body, "headers": dict(self.headers), "at": time.time()}
        how, _, rest = self.path.strip("/").partition("/")
        with self.server.lock, self.server.log.open("a") as log:
            known = bool(key) and key in self.server.keys
            if how not in ("status", "elsewhere"):
                self.server.keys.add(key)
            log.write(json.dumps(entry | {"repeats": known}) + "\n")
        hold = self.server.log.with_name("hold")
        while hold.exists():
            self.server.log.with_name("waiting").touch()
            time.sleep(0.01)
        if how == "cut":
            self.close_connection = True
            return self.connection.close()
        if how == "elsewhere":
            return self.say(302, {}, {"Location": "/moved"})
        if how == "status":
            return self.say(int(rest), {"error": "as you wish"})
        status = 409 if how == "strict" and known else 200
        self.say(status, {"taken": not known}, {"Idempotency-Key": key})

    def say(self, status: int, said: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        raw = json.dumps(said).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the log is the file."""


class Sink:
    """The process, as tests start and read it."""

    def __init__(self, folder: Path) -> None:
        from tests.servers import free_port, wait_for

        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.log, self.hold, self.waiting = (
            free_port(),
            *(folder / one for one in ("log", "hold", "waiting")),
        )
        self.log.touch()
        command = [sys.executable, "-S", "-m", "tests.sink", str(self.port), str(self.log)]
        self._process = subprocess.Popen(command, cwd=PROJECT)
        wait_for(self._healthy, 60, "the sink")

    def _healthy(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5).status == 200)
        return False

    def url(self, path: str = "page") -> str:
        """As an agent's block names it."""
        return f"webhook+http://127.0.0.1:{self.port}/{path}"

    def requests(self, path: str = "") -> list[dict[str, Any]]:
        """All of them, or those to one path, in the order in which they came."""
        found = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [one for one in found if not path or one["path"] == f"/{path}"]

    def taken(self, path: str = "") -> list[dict[str, Any]]:
        """What counted: a request with a key that it had counts for nothing."""
        return [one for one in self.requests(path) if not one["repeats"]]

    def stop(self) -> None:
        """Kill it; the log stays."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def sink_in(folder: Path) -> Iterator[Sink]:
    """One that is killed at the end."""
    sink = Sink(folder)
    try:
        yield sink
    finally:
        sink.stop()


if __name__ == "__main__":
    _Server(int(sys.argv[1]), Path(sys.argv[2])).serve_forever()
