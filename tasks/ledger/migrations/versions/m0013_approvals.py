"""Effects wait for a person's word, and events start ticks."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.create_table(
        "approvals",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("effect", sa.String(400), nullable=False),
        sa.Column("case", sa.Integer(), nullable=False),
        sa.Column("what", sa.String(10), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("sends", sa.String(64), server_default="", nullable=False),
        sa.Column("body", sa.Text(), server_default="", nullable=False),
        sa.Column("by", sa.String(160), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.Column("then", sa.String(10), nullable=False),
        sa.Column("who", sa.String(80), server_default="", nullable=False),
        sa.Column("why", sa.Text(), server_default="", nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["effect"], ["effects.key"]),
        sa.ForeignKeyConstraint(["case"], ["cases.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("approvals_of_effect", "approvals", ["effect", "id"])
    op.create_index("ix_approvals_case", "approvals", ["case"])
    waiting = sa.text("state = 'waiting'")
    op.create_index("effects_waiting", "effects", ["case"], sqlite_where=waiting, postgresql_where=waiting)
    op.add_column("agents", sa.Column("ticks", sa.Integer(), server_default="0", nullable=False))
    op.add_column("agents", sa.Column("rung", sa.Boolean(), server_default=sa.text("false"), nullable=False))
