"""A proxy before an HTTP server that lets requests through and keeps answers back, as a bad network would."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from tests.between import served


class Valve(ThreadingHTTPServer):
    """`closed`: what is posted arrives, and its answer waits. `cut`: the connection is closed instead."""

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        self.behind, self.closed, self.cut, self.arrived = behind, False, False, threading.Event()
        super().__init__(("127.0.0.1", 0), _Through)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Through(BaseHTTPRequestHandler):
    server: Valve
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {"Content-Type": self.headers.get("Content-Type") or ""}
        url, how = self.server.behind + self.path, self.command
        answer = httpx.request(how, url, content=body, headers=headers, trust_env=False)
        if self.command == "POST":
            self.server.arrived.set()
            while self.server.closed:
                time.sleep(0.01)
            if self.server.cut:
                self.close_connection = True
                return self.connection.close()
        with contextlib.suppress(OSError):  # whoever asked may be gone
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def valve_before(url: str) -> Iterator[Valve]:
    """An open one before this server."""
    with served(Valve(url)) as valve:
        try:
            yield valve
        finally:
            valve.closed = False  # or a request that it holds would keep it


def wait_until_posted(valve: Valve, seconds: float = 60) -> None:
    assert valve.arrived.wait(seconds), "nothing was posted"
