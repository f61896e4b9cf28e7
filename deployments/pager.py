"""A pager of its own process: takes POSTs, honours Idempotency-Key, and writes down every request with its time.

Run as `python -S -m deployments.pager PORT LOG`: it stands for the outside, and knows nothing of the house.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LIMIT = 1024 * 1024  # bytes of one request
ANSWER_SECONDS = 0.15  # what a real one takes: a kill in between meets a page that is out and not confirmed


class Pager(ThreadingHTTPServer):
    """Knows which keys it took before, also those that its log tells of."""

    daemon_threads = True

    def __init__(self, port: int, log: Path) -> None:
        self.lock, self.log, self.numbers = threading.Lock(), log, dict[str, int]()
        for line in log.read_text().splitlines() if log.exists() else ():
            entry = json.loads(line)
            self.numbers[entry["key"] or f"without a key {entry['number']}"] = entry["number"]
        super().__init__(("127.0.0.1", port), Request)

    def take(self, path: str, key: str, body: str) -> int:
        """Write a request down; the number of the page that it is, an old one if its key is known."""
        with self.lock, self.log.open("a") as log:
            repeats = key in self.numbers
            number = self.numbers[key] if repeats else len(self.numbers) + 1
            # Without a key nothing can be told apart, so each request is a page of its own.
            self.numbers[key or f"without a key {number}"] = number
            entry = {"at": time.time(), "path": path, "key": key, "number": number, "repeats": repeats, "body": body}
            log.write(json.dumps(entry) + "\n")
        return number


class Request(BaseHTTPRequestHandler):
    """One request; the answer comes a little after the page is out."""

    server: Pager
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take a page or a note."""
        size = int(self.headers.get("Content-Length") or 0)
        if size > LIMIT:
            return self.answer(413, {"error": f"more than {LIMIT} bytes"})
        body = self.rfile.read(size).decode("utf-8", "replace")
        number = self.server.take(self.path, self.headers.get("Idempotency-Key", ""), body)
        time.sleep(ANSWER_SECONDS)
        self.answer(200, {"id": str(number)})

    def do_GET(self) -> None:
        """Say that it is there."""
        self.answer(200, {"pages": len(self.server.numbers)})

    def answer(self, status: int, said: dict[str, object]) -> None:
        """Send JSON."""
        raw = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the log is the file."""


if __name__ == "__main__":
    Pager(int(sys.argv[1]), Path(sys.argv[2])).serve_forever()
