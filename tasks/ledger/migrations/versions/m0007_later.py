"""Questions that wait for a batch at half price, and the batches that they were sent in."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("agent", sa.String(40), nullable=False),
        sa.Column("holder", sa.String(36), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("provider", sa.String(120)),
        sa.Column("items", sa.Integer(), nullable=False),
        sa.Column("made", sa.Float(), nullable=False),
        sa.Column("why", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("provider"),
    )
    open_ = sa.text("state IN ('made', 'sent')")
    op.create_index("batches_open", "batches", ["agent"], sqlite_where=open_, postgresql_where=open_)
    op.create_table(
        "later",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("case", sa.Integer(), nullable=False),
        sa.Column("agent", sa.String(40), nullable=False),
        sa.Column("asked", sa.String(64), nullable=False),
        sa.Column("custom_id", sa.String(64), nullable=False),
        sa.Column("model", sa.String(80), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("call", sa.Integer(), nullable=False),
        sa.Column("batch", sa.Integer()),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("tries", sa.Integer(), server_default="1", nullable=False),
        sa.Column("reply", sa.Text(), server_default="", nullable=False),
        sa.Column("status", sa.Integer(), server_default="0", nullable=False),
        sa.Column("why", sa.Text(), server_default="", nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["batch"], ["batches.id"]),
        sa.ForeignKeyConstraint(["call"], ["model_calls.id"]),
        sa.ForeignKeyConstraint(["case"], ["cases.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("custom_id"),
        sa.UniqueConstraint("case", "asked"),
    )
    op.create_index(op.f("ix_later_batch"), "later", ["batch"], unique=False)
    pending, queued = sa.text("state IN ('queued', 'sent')"), sa.text("state = 'queued'")
    op.create_index("later_pending", "later", ["case"], sqlite_where=pending, postgresql_where=pending)
    op.create_index("later_queued", "later", ["agent"], sqlite_where=queued, postgresql_where=queued)
