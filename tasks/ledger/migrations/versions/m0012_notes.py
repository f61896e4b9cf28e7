"""Sources keep notes, tell what they hear later, and are told which of their cases are settled."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

UNHEARD = sa.text('outcome IS NULL AND "right" IS NOT NULL')
UNFINISHED = sa.text("NOT finished")


def upgrade() -> None:
    op.create_table(
        "notes",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("source", "name"),
    )
    op.create_table(
        "signals",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("what", sa.String(80), nullable=False),
        sa.Column("right", sa.Boolean(), nullable=True),
        sa.Column("why", sa.Text(), server_default="", nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("outcome", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["outcome"], ["outcomes.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("source", "key", "what", "at"),
    )
    op.create_index("signals_unheard", "signals", ["source", "key"], sqlite_where=UNHEARD, postgresql_where=UNHEARD)
    op.add_column("markers", sa.Column("finished", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_index(
        "markers_unfinished", "markers", ["source", "case"], sqlite_where=UNFINISHED, postgresql_where=UNFINISHED
    )
