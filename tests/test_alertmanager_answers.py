"""What an Alertmanager answers that is no alert, or what is no Alertmanager, is named and holds up nothing else."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tasks import sources
from tasks.errors import BadInput, HoldfastError
from tasks.ledger.database import Ledger
from tasks.records import Arrival, Unreadable
from tasks.sources import canonical
from tests.alerted import Desk
from tests.conftest import fill

GOOD = {
    "fingerprint": "00ff00ff00ff00ff",
    "labels": {"alertname": "Go\nod", "odd\nname": "a\nb\x00\ud800"},
    "annotations": {"summary": "x" * 1_000_000 + "\ud800"},
    "startsAt": "2026-01-01T00:00:00.123456789Z",
    "updatedAt": "2026-01-01T00:00:00Z",
    "generatorURL": "http://[broken",
    "receivers": [{"name": "a\nb"}],
    "status": {"state": "active", "silencedBy": [], "inhibitedBy": []},
}
BROKEN: list[Any] = [
    None,
    7,
    {},
    GOOD | {"fingerprint": "../../x"},
    GOOD | {"labels": ["alertname"]},
    GOOD | {"labels": {"alertname": 7}},
    GOOD | {"startsAt": "yesterday"},
    GOOD | {"startsAt": "9999-12-31T23:59:59-23:59"},
    GOOD | {"status": None},
    GOOD | {"receivers": [7]},
]


@contextlib.contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[str]:
    """A server that says this to everybody."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"alertmanager://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_alert_that_is_none_is_reported_and_the_others_go_on(ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, tmp_path, [])
    with answering(json.dumps([*BROKEN, GOOD, *[None] * 5000]).encode()) as url:
        found = Desk(ledger, url).tick()
    (good,) = (one for one in found if isinstance(one, Arrival))
    assert len([one for one in found if isinstance(one, Unreadable)]) == 21, "thousands of lines in a log help nobody"
    assert good.attributes["labels"] == {"alertname": "Go\nod", "odd name": "a\nb"} and good.attributes["cut"] is True
    assert len(good.text) <= 4_000 and "\n" not in good.subject
    assert len(json.dumps(good.attributes)) < 10_000


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"[{", 200, "not JSON"),
        (b"[" * 200_000, 200, "not JSON"),
        (b'{"status": "success"}', 200, "Is it an Alertmanager"),
        (b"<html>gone</html>", 404, "answers 404"),
        (b"busy", 503, "answers 503"),
        (b" " * (64 * 1024 * 1024 + 1), 200, "more than 67108864 bytes"),
    ],
)
@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_what_is_no_alertmanager_is_named(ledger: Ledger, body: bytes, status: int, says: str) -> None:
    with answering(body, status) as url:
        with pytest.raises(HoldfastError, match=says):
            Desk(ledger, url).tick()
        with pytest.raises(HoldfastError, match=says):
            sources.look(url)


def test_one_alertmanager_has_one_name() -> None:
    one = "alertmanager://Host:9093?prometheus=http://prom:9090"
    assert (
        canonical(one)
        == canonical(canonical(one))
        == canonical("alertmanager+http://host:9093/?prometheus=http://prom:9090/")
    )
    assert canonical("alertmanager+https://host/am") == "alertmanager+https://host/am"
    for wrong in ("alertmanager:", "alertmanager://u:p@host", "alertmanager://host?promotheus=http://x", f"{one}#x"):
        with pytest.raises(BadInput, match="Write alertmanager://"):
            canonical(wrong)
