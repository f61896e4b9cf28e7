"""What a skill shall learn is proposed, replayed and decided; each lesson says by which proposal it came."""

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "proposals",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("agent", sa.String(40), nullable=False),
        sa.Column("skill", sa.String(80), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("review", sa.Integer(), nullable=True),
        sa.Column("replay", sa.Text(), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("who", sa.String(80), server_default="", nullable=False),
        sa.Column("why", sa.Text(), server_default="", nullable=False),
        sa.Column("decided", sa.Float(), nullable=True),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["review"], ["reviews.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("agent", "skill", "kind", "digest"),
    )
    connection = op.get_bind()
    old = [dict(row) for row in connection.execute(sa.text("SELECT * FROM lessons ORDER BY id")).mappings()]
    # Made anew: approved a second time, a case is a lesson a second time, so the old unique key has to go.
    op.drop_table("lessons")
    lessons = op.create_table(
        "lessons",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("agent", sa.String(40), nullable=False),
        sa.Column("skill", sa.String(80), nullable=False),
        sa.Column("case", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("proposal", sa.Integer(), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["case"], ["cases.id"]),
        sa.ForeignKeyConstraint(["proposal"], ["proposals.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("lessons_of_skill", "lessons", ["agent", "skill", "id"])
    op.create_index(op.f("ix_lessons_proposal"), "lessons", ["proposal"])
    if old:
        _keep(connection, lessons, old)


def _keep(connection: sa.Connection, lessons: sa.Table, old: list[dict[str, Any]]) -> None:
    """What was learnt before stays under its number, as the proposal of the review that taught it."""
    proposals = sa.Table("proposals", sa.MetaData(), autoload_with=connection)
    taught: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in old:
        taught.setdefault((row["agent"], row["skill"], row["review"]), []).append(row)
    numbers = {}
    for (agent, skill, review), rows in taught.items():
        content = json.dumps(sorted([row["case"], row["label"]] for row in rows))
        given = dict(agent=agent, skill=skill, kind="examples", content=content, evidence="[]", review=review)
        # Of the review too: two of them may have taught the same, one after the other was taken back.
        digest = hashlib.sha256(f"review {review}: {content}".encode()).hexdigest()
        state = "active" if any(row["active"] for row in rows) else "reverted"
        at = max(row["at"] for row in rows)
        made = proposals.insert().values(**given, digest=digest, replay="", state=state, decided=at, at=at)
        numbers[agent, skill, review] = connection.execute(made.returning(proposals.c.id)).scalar_one()
    for row in old:
        row["proposal"] = numbers[row["agent"], row["skill"], row.pop("review")]
        row["active"] = bool(row["active"])
    connection.execute(lessons.insert(), old)
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT setval(pg_get_serial_sequence('lessons', 'id'), max(id)) FROM lessons"))
