"""The calls of the last minute by key, model and agent, and who waits for room in the next one."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "rates",
        sa.Column("account", sa.String(12), nullable=False),
        sa.Column("model", sa.String(80), nullable=False),
        sa.Column("agent", sa.String(40), nullable=False),
        sa.Column("call", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("account", "model", "agent", "call"),
    )
