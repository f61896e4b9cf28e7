"""Somebody between an HTTP client and its server who sees every request, and may lose it, lose its answer, or wait."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

import httpx

Watch = Callable[[str, str], object]
"""Told method and path; a true value cuts the connection."""


def nobody(method: str, path: str) -> object:
    return None


class Between(ThreadingHTTPServer):
    """Passes on what comes in; `before` and `after` are told of each request before and after the server had it."""

    daemon_threads = True

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.server, self.root = server, f"http://127.0.0.1:{self.server_port}"
        self.before: Watch = nobody
        self.after: Watch = nobody
        self.seen: list[str] = []

    @property
    def url(self) -> str:
        return f"roundup://127.0.0.1:{self.server_port}/desk"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients are killed here all the time."""


class _Passing(BaseHTTPRequestHandler):
    def _pass(self) -> None:
        assert isinstance(self.server, Between)
        between, body = self.server, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        between.seen.append(f"{self.command} {self.path}")
        if between.before(self.command, self.path):
            return self._cut()
        kept = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        # The server believes only who comes from its own address.
        headers = {name: value.replace(between.root, between.server) for name, value in kept.items()}
        with httpx.Client(timeout=60, trust_env=False) as client:
            url = f"{between.server}{self.path}"
            answer = client.request(self.command, url, content=body, headers=headers)
        if between.after(self.command, self.path):
            return self._cut()
        self.send_response_only(answer.status_code)
        for name in ("ETag", "Content-Type", "Retry-After"):
            if name in answer.headers:
                self.send_header(name, answer.headers[name])
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)
        return None

    do_GET = do_POST = do_PATCH = _pass

    def _cut(self) -> None:
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


S = TypeVar("S", bound=socketserver.BaseServer)


@contextlib.contextmanager
def served(server: S) -> Iterator[S]:
    """A server that answers in a thread, and is gone afterwards."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def between(server: str) -> contextlib.AbstractContextManager[Between]:
    """One that is gone afterwards; `server` is scheme, host and port."""
    return served(Between(server))
