"""The tables of what a source tells besides its cases: what it wants to find again, and what it heard later."""

from sqlalchemy import Boolean, Column, Float, ForeignKey, Index, Integer, String, Table, Text, UniqueConstraint, text

from tasks.ledger.queues import metadata

UNHEARD = 'outcome IS NULL AND "right" IS NOT NULL'

notes = Table(
    "notes",
    metadata,
    Column("source", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False, doc="JSON."),
)

signals = Table(
    "signals",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("source", Text, nullable=False),
    Column("key", Text, nullable=False, doc="Of the case; with the source, as in `cases`."),
    Column("what", String(80), nullable=False),
    Column("right", Boolean, doc="Whether acting was right; empty if the signal does not say that."),
    Column("why", Text, nullable=False, server_default=""),
    Column("at", Float, nullable=False),
    Column("outcome", Integer, ForeignKey("outcomes.id"), doc="Whose verdict it became; until then it waits for one."),
    UniqueConstraint("source", "key", "what", "at"),
    Index("signals_unheard", "source", "key", sqlite_where=text(UNHEARD), postgresql_where=text(UNHEARD)),
)
