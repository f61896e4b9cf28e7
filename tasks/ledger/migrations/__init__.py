"""Brings a ledger to this version of its tables, by Alembic."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

HEAD = "0014"
LOCK = 5_108_114  # any number, the same for all processes of the project


class Newer(Exception):
    """The tables were made by a later version of the project."""


def _at_head(connection: Connection) -> bool:
    if not inspect(connection).has_table("alembic_version"):
        return False
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == HEAD


def upgrade(engine: Engine) -> None:
    """Run what is missing, in one transaction that excludes every other process."""
    with engine.connect().execution_options(reads=True) as connection, connection.begin():
        if _at_head(connection):
            return
    # Imported here because a tick that finds its tables ready should not pay for it.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    with engine.connect() as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        if not _at_head(connection):
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as why:  # a revision that this version does not know
                raise Newer("was made by a newer Holdfast. Update the clone, or name another ledger.") from why
