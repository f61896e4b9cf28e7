"""The tables of the ledger; times are seconds since 1970 in UTC, for people and never for deciding who is alive."""

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
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    literal_column,
    text,
)

from tasks.ledger.audit_tables import approvals as approvals
from tasks.ledger.audit_tables import audits as audits
from tasks.ledger.audit_tables import lessons as lessons
from tasks.ledger.audit_tables import proposals as proposals
from tasks.ledger.audit_tables import releases as releases
from tasks.ledger.audit_tables import reviews as reviews
from tasks.ledger.audit_tables import rules as rules
from tasks.ledger.audit_tables import thresholds as thresholds
from tasks.ledger.audit_tables import verdicts as verdicts
from tasks.ledger.queues import asked_later as asked_later
from tasks.ledger.queues import metadata as metadata  # and so its tables are known wherever these are
from tasks.ledger.queues import model_calls as model_calls
from tasks.ledger.queues import spending as spending
from tasks.ledger.source_tables import notes as notes
from tasks.ledger.source_tables import signals as signals

SHADOW = "shadow:"  # the source of copies that a version only rehearses; no place that could be polled
UNSETTLED = "state IN ('open', 'working', 'parked')"

agents = Table(
    "agents",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("settings", Text, nullable=False),
    Column("dry_run", Boolean, nullable=False),
    Column(
        "effects_on", Boolean, nullable=False, server_default=text("true"), doc="The switch that stops all effects."
    ),
    Column("draining", Boolean, nullable=False, server_default=text("false")),
    Column("paused", Text, nullable=False, server_default="", doc="Why no tick starts; empty while they do."),
    Column("holder", String(36), doc="The tick in hand: the agent's lease."),
    Column("ticks", Integer, nullable=False, server_default="0", doc="How often a tick took that lease."),
    Column("rung", Boolean, nullable=False, server_default=text("false"), doc="Something came since: one tick more."),
    Column(
        "fruitless", Integer, nullable=False, server_default="0", doc="Ticks in a row that died and settled nothing."
    ),
)

holders = Table(
    "holders",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("machine", String(20), nullable=False),
    Column("boot", String(40), nullable=False),
    Column("space", String(20), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started", String(20), nullable=False),
    Column("beat", Integer, nullable=False, server_default="0"),
    Column("flow_run", String(36), nullable=False, server_default=""),
    Column("since", Float, nullable=False),
    Column(
        "ended",
        String(10),
        nullable=False,
        server_default="",
        doc="'' alive, 'left' by itself, 'stopped' by us, 'dead' proved, 'lapsed' unproved.",
    ),
    Index("holders_not_ended", "id", sqlite_where=text("ended = ''"), postgresql_where=text("ended = ''")),
)

sightings = Table(
    "sightings",
    metadata,
    Column("holder", String(36), primary_key=True),
    Column("observer", String(64), primary_key=True, doc="Whose monotonic clock: machine and boot."),
    Column("beat", Integer, nullable=False),
    Column("clock", Float, nullable=False, doc="Monotonic seconds of the observer when this beat was first seen."),
)

cases = Table(
    "cases",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("agent", String(40), nullable=False),
    Column("source", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("thread", Text, nullable=False),
    Column("sender", Text, nullable=False, server_default=""),
    Column("body", Text, nullable=False, doc="The Case as JSON, without id."),
    Column("recorded", Float, nullable=False),
    Column("skill", String(80), nullable=False, server_default=""),
    Column("state", String(12), nullable=False, server_default="open", doc="open working parked settled quarantined"),
    Column("reason", Text, nullable=False, server_default="", doc="Why it is parked, quarantined or was handed back."),
    Column("not_before", Float, nullable=False, server_default="0"),
    Column("holder", String(36)),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column(
        "take", Integer, nullable=False, server_default="0", doc="How often a person asked for it to be worked again."
    ),
    Column(
        "resend", Integer, nullable=False, server_default="0", doc="How often a person asked for effects to repeat."
    ),
    Column("errors", Integer, nullable=False, server_default="0", doc="Attempts in a row that ended in an error."),
    Column("deaths", Integer, nullable=False, server_default="0", doc="Attempts in a row that died at the same point."),
    Column("suspect", Boolean, nullable=False, server_default=text("false"), doc="In hand at a crash: runs alone."),
    Column("policy", Text, nullable=False, server_default=""),
    Column("stored", Integer, nullable=False, server_default="0", doc="How many steps it has: one missing is seen."),
    Column("wants", BigInteger, nullable=False, server_default="0", doc="Nanodollars whose lack parked it."),
    Column("wants_tokens", BigInteger, nullable=False, server_default="0"),
    UniqueConstraint("source", "key"),
    # Settled cases are in neither index, so a claim among a million of them costs what it costs among none.
    Index(
        "cases_unsettled",
        "agent",
        "state",
        "id",
        sqlite_where=text(UNSETTLED),
        postgresql_where=text(UNSETTLED),
    ),
    Index(
        "cases_threads",
        "source",
        "thread",
        "id",
        sqlite_where=text(UNSETTLED),
        postgresql_where=text(UNSETTLED),
    ),
    Index(
        "cases_senders",
        "source",
        "sender",
        "id",
        sqlite_where=text("sender != ''"),
        postgresql_where=text("sender != ''"),
    ),
    Index("cases_held", "holder", sqlite_where=text("holder IS NOT NULL"), postgresql_where=text("holder IS NOT NULL")),
)


def _literally(column: ColumnElement[str], *values: str) -> ColumnElement[bool]:
    # SQLite uses a partial index only for its own condition, word for word: no bound value will do.
    return column.in_([literal_column(f"'{value}'") for value in values])


def unsettled(table: FromClause = cases) -> ColumnElement[bool]:
    """Cases that are still to be concluded: what the partial indexes of `cases` hold."""
    return _literally(table.c.state, "open", "working", "parked")


markers = Table(
    "markers",
    metadata,
    Column("source", Text, primary_key=True),
    Column("marker", Text, primary_key=True),
    Column("case", Integer, ForeignKey("cases.id")),
    Column(
        "finished", Boolean, nullable=False, server_default=text("false"), doc="Its source was told: it is settled."
    ),
    Index(
        "markers_unfinished",
        "source",
        "case",
        sqlite_where=text("NOT finished"),
        postgresql_where=text("NOT finished"),
    ),
)


def unfinished() -> ColumnElement[bool]:
    """Markers whose source was not told that they are settled: what the partial index of `markers` holds."""
    return literal_column("NOT finished", Boolean)


def unheard() -> ColumnElement[bool]:
    """Signals that no verdict holds yet: what their partial index holds."""
    return and_(signals.c.outcome.is_(None), signals.c.right.is_not(None))


attempts = Table(
    "attempts",
    metadata,
    Column("case", Integer, ForeignKey("cases.id"), primary_key=True),
    Column("fence", Integer, primary_key=True),
    Column("holder", String(36), nullable=False),
    Column("skill", String(80), nullable=False),
    Column("version", String(40), nullable=False),
    Column("flow_run", String(36), nullable=False),
    Column("begun", Float, nullable=False, index=True),
    Column("replayed", Integer, nullable=False, server_default="0", doc="Steps served from the ledger."),
    Column("ended", Float),
    Column("how", String(12), nullable=False, server_default="", doc="settled parked error died returned"),
    Column("why", Text, nullable=False, server_default=""),
)

steps = Table(
    "steps",
    metadata,
    Column("case", Integer, ForeignKey("cases.id"), primary_key=True),
    Column("key", String(300), primary_key=True, doc="skill/version/case[.take]/step/digest of the inputs"),
    Column("step", String(120), nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("at", Float, nullable=False),
)

effects = Table(
    "effects",
    metadata,
    Column("key", String(400), primary_key=True, doc="Business intent: kind, source, case key, recipient."),
    Column("case", Integer, ForeignKey("cases.id"), nullable=False, index=True),
    Column("kind", String(40), nullable=False),
    Column("channel", Text, nullable=False),
    Column("body", Text, nullable=False, doc="The Effect as JSON."),
    Column("state", String(12), nullable=False, doc="intended waiting denied dispatching confirmed unknown rehearsed"),
    Column("fence", Integer, nullable=False),
    Column("dispatcher", String(36)),
    Column("receipt", Text, nullable=False, server_default=""),
    Column("why", Text, nullable=False, server_default=""),
    Column("at", Float, nullable=False),
    Index(
        "effects_in_doubt",
        "state",
        sqlite_where=text("state IN ('dispatching', 'unknown')"),
        postgresql_where=text("state IN ('dispatching', 'unknown')"),
    ),
    Index(
        "effects_waiting", "case", sqlite_where=text("state = 'waiting'"), postgresql_where=text("state = 'waiting'")
    ),
)


def on_their_way() -> ColumnElement[bool]:
    """Effects whose fate is open: what the partial index of `effects` holds."""
    return _literally(effects.c.state, "dispatching", "unknown")


def waiting_effects() -> ColumnElement[bool]:
    """Effects that wait for a person's word: what their partial index holds."""
    return effects.c.state == literal_column("'waiting'")


def not_ended() -> ColumnElement[bool]:
    """Holders nobody has ended: what the partial index of `holders` holds."""
    return holders.c.ended == literal_column("''")


outcomes = Table(
    "outcomes",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("case", Integer, ForeignKey("cases.id"), nullable=False, index=True),
    Column("fence", Integer, nullable=False),
    Column("agent", String(40), nullable=False),
    Column("skill", String(80), nullable=False),
    Column("version", String(40), nullable=False),
    Column("kind", String(12), nullable=False),
    Column("answer", Text, nullable=False),
    Column("confidence", Float),
    Column("rehearsed", Boolean, nullable=False),
    Column("body", Text, nullable=False, doc="The Outcome as JSON."),
    Column("flow_run", String(36), nullable=False),
    Column("at", Float, nullable=False, index=True),
    Index("outcomes_of_agent", "agent", "at"),
)

journal = Table(
    "journal",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("agent", String(40), nullable=False, server_default=""),
    Column("case", Integer, index=True),
    Column("who", String(80), nullable=False),
    Column("what", Text, nullable=False),
)
