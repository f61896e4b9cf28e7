"""A key comes from the environment or from a Secret block, and stands nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import select

from tasks.claude import KEY, KEY_BLOCK
from tasks.ledger.database import Ledger
from tasks.ledger.tables import cases
from tests.asking import asking
from tests.claude.running import Claude, claude_server_in
from tests.conftest import arrival, fill

pytestmark = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)


@pytest.fixture
def keyless(
    ledger: Ledger,
    prefect_server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Claude]:
    """An agent that names its models, and no key in the environment."""
    monkeypatch.delenv(KEY, raising=False)
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    fill(ledger, tmp_path, [arrival(1)], models={"any": ["claude-haiku-5-5"]})
    with claude_server_in(tmp_path) as server, temporary_settings({PREFECT_API_URL: prefect_server}):
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        yield server


def test_a_key_in_a_secret_block_is_used_and_written_nowhere(
    keyless: Claude, ledger: Ledger, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def work() -> None:
        await Secret(value="sk-block-9876").save(KEY_BLOCK, overwrite=True)
        try:
            await asking(cases=[1])
        finally:
            await Secret.adelete(KEY_BLOCK)

    asyncio.run(work())
    assert {one.key for one in keyless.entries()} == {"9876"}
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("ledger.db*"))
    said = "".join(capfd.readouterr())
    assert b"sk-block" not in kept and "sk-block" not in said


def test_an_agent_without_any_key_says_where_one_belongs(keyless: Claude, ledger: Ledger) -> None:
    asyncio.run(asking(cases=[1]))
    reason = ledger.read_now("look", lambda c: c.execute(select(cases.c.reason)).scalar_one())
    assert KEY in reason and KEY_BLOCK in reason and keyless.entries() == []
