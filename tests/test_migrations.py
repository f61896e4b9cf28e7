"""The tables that migrations make are those the code expects, whoever comes first and from whichever version."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from tasks.errors import BadInput
from tasks.ledger import migrations
from tasks.ledger.database import Ledger, migrate
from tasks.ledger.tables import metadata
from tests.conftest import PROJECT


def test_a_table_is_not_changed_without_a_migration(ledger: Ledger) -> None:
    with ledger.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_ledger_that_is_up_to_date_is_opened_without_a_write(ledger: Ledger) -> None:
    versions = Path(migrations.__file__).parent / "versions"
    newest = max(path.name[1:5] for path in versions.glob("m*.py"))
    assert newest == migrations.HEAD, "every process would migrate at its start, behind everybody's writes"
    with ledger.engine.connect() as writer, writer.begin():
        writer.execute(text("UPDATE alembic_version SET version_num = version_num"))
        migrate(ledger)


def test_processes_that_start_at_once_on_an_empty_database_do_not_fail(ledger_url: str) -> None:
    code = f"from tasks.ledger.database import Ledger, migrate; migrate(Ledger({ledger_url!r}))"
    runs = [subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT) for _ in range(4)]
    assert [run.wait(60) for run in runs] == [0, 0, 0, 0]


def test_a_ledger_of_a_newer_version_is_refused_and_not_touched(ledger: Ledger) -> None:
    with ledger.engine.connect() as connection, connection.begin():
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(BadInput, match="newer Holdfast"):
        migrate(ledger)
