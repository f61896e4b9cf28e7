"""Verdicts say where they come from and what was right; a review keeps plan, figures, thresholds and lessons."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_index("outcomes_of_agent", "outcomes", ["agent", "at"])
    op.drop_table("verdicts")  # nothing ever wrote one
    op.create_table(
        "verdicts",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("outcome", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(10), nullable=False),
        sa.Column("auditor", sa.String(80), nullable=False),
        sa.Column("right", sa.Boolean(), nullable=False),
        sa.Column("label", sa.Text(), server_default="", nullable=False),
        sa.Column("why", sa.Text(), server_default="", nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["outcome"], ["outcomes.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("outcome", "key"),
    )
    op.create_index(op.f("ix_verdicts_outcome"), "verdicts", ["outcome"])
    op.create_table(
        "audits",
        sa.Column("outcome", sa.Integer(), nullable=False),
        sa.Column("agent", sa.String(40), nullable=False),
        sa.Column("period", sa.String(10), nullable=False),
        sa.Column("stratum", sa.String(120), nullable=False),
        sa.Column("chance", sa.Float(), nullable=False),
        sa.Column("asked", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["outcome"], ["outcomes.id"]),
        sa.PrimaryKeyConstraint("outcome"),
    )
    op.create_index("audits_of_agent", "audits", ["agent", "period"])
    op.create_table(
        "reviews",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("agent", sa.String(40), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.Column("as_of", sa.Float(), nullable=False),
        sa.Column("figures", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("agent", "since", "until", "as_of"),
    )
    op.create_table(
        "thresholds",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("agent", sa.String(40), nullable=False),
        sa.Column("skill", sa.String(80), nullable=False),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.Column("review", sa.Integer(), nullable=True),
        sa.Column("who", sa.String(80), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("reverted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["review"], ["reviews.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("thresholds_of_agent", "thresholds", ["agent", "skill", "id"])
    op.create_table(
        "lessons",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("agent", sa.String(40), nullable=False),
        sa.Column("skill", sa.String(80), nullable=False),
        sa.Column("case", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("review", sa.Integer(), nullable=True),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["case"], ["cases.id"]),
        sa.ForeignKeyConstraint(["review"], ["reviews.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("agent", "skill", "case", "review"),
    )
    op.create_index("lessons_of_skill", "lessons", ["agent", "skill", "id"])
