"""An INSERT that may be repeated, on both databases."""

from __future__ import annotations

from functools import lru_cache

from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.sql.dml import Insert


@lru_cache(maxsize=64)
def _insert_or_nothing(dialect: str, table: object) -> Insert:
    make = postgres_insert if dialect == "postgresql" else sqlite_insert
    # Without the option SQLAlchemy says -1 for an INSERT on Postgres, whether a row was there or not.
    return make(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)  # type: ignore[arg-type]


def insert_or_nothing(c: Connection, table: object) -> Insert:
    """An INSERT that leaves an existing row alone."""
    return _insert_or_nothing(c.dialect.name, table)
