"""The tables of people's words: what auditors said, what the review made of it, and which effects may leave."""

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from tasks.ledger.queues import metadata

verdicts = Table(
    "verdicts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("outcome", Integer, ForeignKey("outcomes.id"), nullable=False, index=True),
    Column("source", String(10), nullable=False, doc="person, signal (of the case's source) or judge (a model)"),
    Column("auditor", String(80), nullable=False, doc="Who, or which signal or model."),
    Column("right", Boolean, nullable=False, doc="Whether acting on its answer was right, or would have been."),
    Column("label", Text, nullable=False, server_default="", doc="What the answer should have been; empty: not said."),
    Column("why", Text, nullable=False, server_default=""),
    Column("key", String(200), nullable=False, doc="The same for the same statement, however often it is handed in."),
    Column("at", Float, nullable=False),
    UniqueConstraint("outcome", "key"),
)

audits = Table(
    "audits",
    metadata,
    Column("outcome", Integer, ForeignKey("outcomes.id"), primary_key=True),
    Column("agent", String(40), nullable=False),
    Column("period", String(10), nullable=False, doc="The first UTC day of the week whose plan drew it."),
    Column("stratum", String(120), nullable=False),
    Column("chance", Float, nullable=False, doc="The probability with which the plan drew it, above 0."),
    Column("asked", Float, nullable=False),
    Index("audits_of_agent", "agent", "period"),
)

reviews = Table(
    "reviews",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("agent", String(40), nullable=False),
    Column("since", Float, nullable=False, doc="The window: outcomes at or after this moment"),
    Column("until", Float, nullable=False, doc="... and before this one"),
    Column("as_of", Float, nullable=False, doc="Verdicts up to this moment count."),
    Column("figures", Text, nullable=False, doc="JSON."),
    Column("at", Float, nullable=False),
    UniqueConstraint("agent", "since", "until", "as_of"),
)

thresholds = Table(
    "thresholds",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("agent", String(40), nullable=False),
    Column("skill", String(80), nullable=False),
    Column("threshold", Float, nullable=False, doc="Cases that are begun from now on act at or above it."),
    Column("review", Integer, ForeignKey("reviews.id"), doc="What set it; empty for a person."),
    Column("who", String(80), nullable=False),
    Column("why", Text, nullable=False),
    Column("reverted", Boolean, nullable=False, server_default=text("false"), doc="The one before counts again."),
    Column("at", Float, nullable=False),
    Index("thresholds_of_agent", "agent", "skill", "id"),
)

proposals = Table(
    "proposals",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("agent", String(40), nullable=False),
    Column("skill", String(80), nullable=False),
    Column("kind", String(20), nullable=False, doc="examples (to read others by) or rule (what is left to people)"),
    Column("digest", String(64), nullable=False, doc="Of the content, and of a rule's evidence: proposed once."),
    Column("content", Text, nullable=False, doc="JSON: [case, label] of each example; a `Rule`."),
    Column(
        "evidence", Text, nullable=False, doc="JSON: the cases that speak for it: wrong ones, or to lift a rule all."
    ),
    Column("review", Integer, ForeignKey("reviews.id"), doc="What wrote it."),
    Column("replay", Text, nullable=False, doc="JSON: a `Replay`, or a rule's `Exam`; empty: never replayed."),
    Column("state", String(10), nullable=False, doc="proposed, active, declined, reverted or replaced (by a newer)"),
    Column("who", String(80), nullable=False, server_default="", doc="Who decided it last"),
    Column("why", Text, nullable=False, server_default=""),
    Column("decided", Float, doc="... and when."),
    Column("at", Float, nullable=False),
    UniqueConstraint("agent", "skill", "kind", "digest"),
)

lessons = Table(
    "lessons",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("agent", String(40), nullable=False),
    Column("skill", String(80), nullable=False),
    Column("case", Integer, ForeignKey("cases.id"), nullable=False),
    Column("text", Text, nullable=False, doc="What the customer wrote, as the skill was shown it."),
    Column("label", Text, nullable=False, doc="What it is about, by people's word."),
    Column("proposal", Integer, ForeignKey("proposals.id"), nullable=False, index=True, doc="What added it."),
    Column("active", Boolean, nullable=False, server_default=text("true")),
    Column("at", Float, nullable=False),
    Index("lessons_of_skill", "agent", "skill", "id"),
)

rules = Table(
    "rules",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("agent", String(40), nullable=False),
    Column("skill", String(80), nullable=False),
    Column("answer", Text, nullable=False),
    Column("held", Boolean, nullable=False, doc="Its cases are handed over; else a rule that said so is lifted."),
    Column("proposal", Integer, ForeignKey("proposals.id"), nullable=False, doc="What laid it down."),
    Column("active", Boolean, nullable=False, server_default=text("true"), doc="The newest of an answer counts."),
    Column("at", Float, nullable=False),
    Index("rules_of_skill", "agent", "skill", "id"),
)

releases = Table(
    "releases",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("agent", String(40), nullable=False),
    Column("skill", String(80), nullable=False),
    Column("version", String(40), nullable=False),
    Column("stage", String(8), nullable=False, doc="shadow canary live retired; the newest word on a version counts"),
    Column("share", Float, nullable=False, doc="Of the cases: those that a canary works, or a shadow sees."),
    Column("seen", Integer, nullable=False, doc="The last outcome that a shadow has looked at."),
    Column("review", Integer, ForeignKey("reviews.id"), doc="What said so; empty for a person."),
    Column("who", String(80), nullable=False),
    Column("why", Text, nullable=False),
    Column("at", Float, nullable=False),
    Index("releases_of_agent", "agent", "skill", "version", "id"),
)

approvals = Table(
    "approvals",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("effect", String(400), ForeignKey("effects.key"), nullable=False),
    Column("case", Integer, ForeignKey("cases.id"), nullable=False, index=True),
    Column("what", String(10), nullable=False, doc="asked told (once more) permitted edited denied; the newest counts"),
    Column("digest", String(64), nullable=False, doc="Of the channel and the exact effect that was asked about."),
    Column("sends", String(64), nullable=False, server_default="", doc="The same of what may leave; empty: nothing."),
    Column("body", Text, nullable=False, server_default="", doc="The Effect as JSON: as asked about, or as edited."),
    Column("by", String(160), nullable=False, doc="skill/version/take that wanted it."),
    Column("until", Float, nullable=False, doc="How long it waits"),
    Column("then", String(10), nullable=False, doc="... and what comes then: deny or escalate."),
    Column("who", String(80), nullable=False, server_default=""),
    Column("why", Text, nullable=False, server_default=""),
    Column("at", Float, nullable=False),
    Index("approvals_of_effect", "effect", "id"),
)
