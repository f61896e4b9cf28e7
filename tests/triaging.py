"""An incident agent before the alerts of a module's own `rig`, as tests start it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.ledger.database import Ledger
from tests.alerting import Alerting
from tests.incidents import Desk, environment
from tests.sink import Sink, sink_in

SQLITE = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)  # where no row decides


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    with sink_in(tmp_path / "sink") as found:
        yield found


@pytest.fixture
def desk(
    ledger: Ledger,
    sink: Sink,
    rig: Alerting,
    tmp_path: Path,
    prefect_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Desk]:
    for name, value in environment(ledger.url, prefect_server, tmp_path).items():
        monkeypatch.setenv(name, value)
    out = {"page": sink.url("page"), "note": sink.url("note")}
    out |= {"silence": f"alertmanager://127.0.0.1:{rig.alertmanager.port}"}
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield Desk(ledger, sink, tmp_path, prefect_server, out, rig.source)
