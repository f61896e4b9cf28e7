"""An agent whose pages wait for a person, as tests work it and speak for people."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import select

from tasks.ledger.approvals import Waiting, decide, run_out, what_waits, words_of
from tasks.ledger.database import Ledger
from tasks.ledger.tables import cases, outcomes
from tests.conftest import arrival, fill
from tests.paging import paging


class Watch:
    """An agent that may page only on a person's word, with one case."""

    def __init__(self, ledger: Ledger, box: Path, text: str = "", dry_run: bool = False, **settings: Any) -> None:
        self.ledger, self.box = ledger, box
        given = {"effects": {"page": f"maildir:{box / 'pages'}"}, "approvals": {"page": {}}, "skills": ["paging"]}
        self.given: dict[str, Any] = given | settings
        fill(ledger, box, [arrival(1, body=text)], dry_run=dry_run, **self.given)

    def configure(self, dry_run: bool = False, **settings: Any) -> None:
        fill(self.ledger, self.box, [], dry_run=dry_run, **(self.given | settings))

    def work(self, flow: Any = paging) -> None:
        asyncio.run(flow(cases=[1]))

    def waits(self) -> list[Waiting]:
        return self.ledger.read_now("look", what_waits)

    def say(self, permit: bool = True, who: str = "ann", digest: str = "", **words: Any) -> bool:
        digest = digest or self.waits()[0].word.digest[:12]
        return self.ledger.write_now("decide", lambda c: decide(c, 1, digest, permit, who, **words))

    def run_out(self) -> list[str]:
        return self.ledger.write_now("see what nobody spoke of", run_out)

    def state(self) -> str:
        row = self.ledger.read_now("look", lambda c: c.execute(select(cases)).one())
        return str(row.state)

    def came(self) -> list[tuple[str, str]]:
        found = select(outcomes.c.kind, outcomes.c.answer).order_by(outcomes.c.id)
        return [tuple(row) for row in self.ledger.read_now("look", lambda c: c.execute(found).all())]

    def looked(self) -> int:
        return (self.box / "log").read_text().count("look")

    def pages(self, box: str = "pages") -> list[str]:
        """What lies outside."""
        files = sorted((self.box / box / "new").glob("*"))
        read = [message_from_bytes(one.read_bytes(), policy=policy.default) for one in files]
        return [str(one.get_content()).strip() for one in read]

    def said(self) -> list[str]:
        return [row.what for row in self.ledger.read_now("look", lambda c: words_of(c, 1))]


Here = Callable[..., Watch]


@pytest.fixture
def here(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_server: str):  # type: ignore[no-untyped-def]
    (tmp_path / "log").touch()
    monkeypatch.setenv("PRACTICE_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield lambda *words, **settings: Watch(ledger, tmp_path, *words, **settings)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    real = time.time
    return lambda seconds: monkeypatch.setattr(time, "time", lambda: real() + seconds)
