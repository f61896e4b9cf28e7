"""The tables of what stands between a question and its model; they belong to the same MetaData as all the others."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    FromClause,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    exists,
    literal_column,
    text,
)

metadata = MetaData()
PENDING = "state IN ('queued', 'sent')"
OPEN = "state IN ('made', 'sent')"

model_calls = Table(
    "model_calls",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("case", Integer, ForeignKey("cases.id"), nullable=False),
    Column("agent", String(40), nullable=False),
    Column("skill", String(80), nullable=False),
    Column("version", String(40), nullable=False),
    Column("step", String(120), nullable=False),
    Column("key", String(300), nullable=False, doc="The step's key: what a replay of it saves is booked by it."),
    Column("fence", Integer, nullable=False),
    Column("holder", String(36), nullable=False),
    Column("model", String(80), nullable=False),
    Column("batch", Boolean, nullable=False),
    Column("state", String(10), nullable=False, doc="open answered failed lost (nobody knows whether it was paid)"),
    Column("response", String(120), unique=True, doc="The provider's id: a response is booked once."),
    Column("input_tokens", Integer, nullable=False, server_default="0"),
    Column("output_tokens", Integer, nullable=False, server_default="0"),
    Column("cache_write", Integer, nullable=False, server_default="0"),
    Column("cache_read", Integer, nullable=False, server_default="0"),
    Column("reserved", BigInteger, nullable=False, doc="Nanodollars that it can not exceed."),
    Column("reserved_tokens", BigInteger, nullable=False),
    Column("spent", BigInteger, nullable=False, server_default="0", doc="Nanodollars."),
    Column("saved_by_cache", BigInteger, nullable=False, server_default="0", doc="Nanodollars; a first write costs."),
    Column("replays", Integer, nullable=False, server_default="0", doc="Its step, served from the ledger."),
    Column("began", Float, nullable=False, index=True),
    Column("ended", Float),
    Column("why", Text, nullable=False, server_default=""),
    Column("asked", String(64), nullable=False, server_default="", doc="Digest of all that was asked but the model."),
    Column("reply", Text, nullable=False, server_default="", doc="JSON, until the step that asked is stored."),
    Index("model_calls_of_step", "case", "key"),
    Index("model_calls_open", "holder", sqlite_where=text("state = 'open'"), postgresql_where=text("state = 'open'")),
)

spending = Table(
    "spending",
    metadata,
    Column("scope", String(8), primary_key=True, doc="agent skill case"),
    Column("name", String(120), primary_key=True),
    Column("day", String(10), primary_key=True, doc="UTC date; empty for all days together."),
    Column("usd", BigInteger, nullable=False, server_default="0", doc="Nanodollars spent, or lost and perhaps spent."),
    Column("usd_open", BigInteger, nullable=False, server_default="0", doc="Nanodollars reserved for calls under way."),
    Column("tokens", BigInteger, nullable=False, server_default="0"),
    Column("tokens_open", BigInteger, nullable=False, server_default="0"),
    Column("usd_more", BigInteger, nullable=False, server_default="0", doc="Nanodollars that people added."),
    Column("tokens_more", BigInteger, nullable=False, server_default="0"),
)

rates = Table(
    "rates",
    metadata,
    Column("account", String(12), primary_key=True, doc="Of a key: the beginning of its sha256."),
    Column("model", String(80), primary_key=True),
    Column("agent", String(40), primary_key=True, doc="Empty in the row that is locked while the others are counted."),
    Column("call", Integer, primary_key=True, autoincrement=False, doc="In model_calls; 0: the agent has to wait."),
    Column("at", Float, nullable=False, doc="When the call was let through, or since when it waits: `rates.clock`."),
    Column("until", Float, nullable=False, doc="When this row stops counting, by the same clock."),
    Column("tokens", BigInteger, nullable=False, server_default="0", doc="What a wait wants, at most."),
)

batches = Table(
    "batches",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("agent", String(40), nullable=False),
    Column("holder", String(36), nullable=False, doc="Who asks the provider for it."),
    Column("state", String(8), nullable=False, doc="made (is it there?) sent ended refused (it is not there)"),
    Column("provider", String(120), unique=True, doc="The provider's id."),
    Column("items", Integer, nullable=False),
    Column("made", Float, nullable=False),
    Column("why", Text, nullable=False, server_default=""),
    Index("batches_open", "agent", sqlite_where=text(OPEN), postgresql_where=text(OPEN)),
)

later = Table(
    "later",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("case", Integer, ForeignKey("cases.id"), nullable=False),
    Column("agent", String(40), nullable=False),
    Column("asked", String(64), nullable=False, doc="Digest of the step's key, the turn and all that is asked."),
    Column("custom_id", String(64), nullable=False, unique=True, doc="The item's name at the provider, for one try."),
    Column("model", String(80), nullable=False),
    Column("request", Text, nullable=False, doc="JSON; empty once it is answered."),
    Column("call", Integer, ForeignKey("model_calls.id"), nullable=False, doc="Its money."),
    Column("batch", Integer, ForeignKey("batches.id"), index=True),
    Column("state", String(8), nullable=False, doc="queued sent (bound to a batch) answered failed"),
    Column("tries", Integer, nullable=False, server_default="1"),
    Column("reply", Text, nullable=False, server_default="", doc="JSON."),
    Column("status", Integer, nullable=False, server_default="0", doc="Why it failed, as HTTP has it; 0: not its own."),
    Column("why", Text, nullable=False, server_default=""),
    Column("at", Float, nullable=False, doc="When it was queued."),
    UniqueConstraint("case", "asked"),
    Index("later_pending", "case", sqlite_where=text(PENDING), postgresql_where=text(PENDING)),
    Index("later_queued", "agent", sqlite_where=text("state = 'queued'"), postgresql_where=text("state = 'queued'")),
)


def asked_later(table: FromClause) -> ColumnElement[bool]:
    """Cases of this table whose question waits for a batch: to begin them would only find that out."""
    # Word for word as in the index, or SQLite would not use it.
    pending = later.c.state.in_([literal_column("'queued'"), literal_column("'sent'")])
    return exists().where(later.c.case == table.c.id, pending)
