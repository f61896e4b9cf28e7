"""The tables that migrations make are those the code expects, whoever comes first and from whichever version."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import insert, select, text

from tasks.errors import BadInput
from tasks.ledger import migrations
from tasks.ledger.database import Ledger, migrate
from tasks.ledger.proposals import newest_proposals
from tasks.ledger.tables import lessons, metadata
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


BEFORE_PROPOSALS = """
INSERT INTO reviews (id, agent, since, until, as_of, figures, at) VALUES
    (1, 'desk', 0, 1, 2, '{}', 3), (2, 'desk', 0, 2, 3, '{}', 4);
INSERT INTO cases (id, agent, source, key, thread, body, recorded, state, skill) VALUES
    (1, 'desk', 's', 'a', 'a', '{}', 0, 'settled', 'x'), (2, 'desk', 's', 'b', 'b', '{}', 0, 'settled', 'x');
INSERT INTO lessons (id, agent, skill, "case", text, label, review, active, at) VALUES
    (3, 'desk', 'x', 1, 'words', 'refunds', 1, false, 5), (4, 'desk', 'x', 1, 'words', 'invoice', 2, true, 6),
    (7, 'desk', 'x', 2, 'more', 'refunds', 2, true, 6);
"""


def test_what_was_learnt_before_there_were_proposals_counts_on_and_can_be_taken_back(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with ledger.engine.connect() as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "0009")
        for statement in filter(str.strip, BEFORE_PROPOSALS.split(";")):
            connection.execute(text(statement))
    migrate(ledger)
    second, first = ledger.read_now("look", lambda c: newest_proposals(c, "desk", 9))
    assert (first.state, first.examples, first.review) == ("reverted", [(1, "refunds")], 1)
    assert (second.state, second.examples, second.replay) == ("active", [(1, "invoice"), (2, "refunds")], None)
    rows = ledger.read_now("look", lambda c: c.execute(select(lessons).order_by(lessons.c.id)).all())
    assert [(row.id, row.proposal, row.active) for row in rows] == [(3, 1, False), (4, 2, True), (7, 2, True)]
    fresh = dict(agent="desk", skill="x", case=2, text="", label="", proposal=2, at=0.0)
    number = ledger.write_now("learn", lambda c: c.execute(insert(lessons).values(fresh)).inserted_primary_key)
    assert number is not None and number[0] == 8, "cases in flight would be read by what came later"
    ledger.close()
