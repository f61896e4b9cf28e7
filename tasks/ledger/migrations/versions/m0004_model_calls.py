"""Model calls with what they cost and saved, the sums that limits are checked against, and cases that lack money."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for name in ("wants", "wants_tokens"):
        op.add_column("cases", sa.Column(name, sa.BigInteger(), server_default="0", nullable=False))
    op.drop_table("model_calls")  # nothing was ever written to the first form of it
    op.create_table(
        "model_calls",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("case", sa.Integer(), nullable=False),
        sa.Column("agent", sa.String(40), nullable=False),
        sa.Column("skill", sa.String(80), nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("step", sa.String(120), nullable=False),
        sa.Column("key", sa.String(300), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("holder", sa.String(36), nullable=False),
        sa.Column("model", sa.String(80), nullable=False),
        sa.Column("batch", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("response", sa.String(120)),
        sa.Column("input_tokens", sa.Integer(), server_default="0", nullable=False),
        sa.Column("output_tokens", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cache_write", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cache_read", sa.Integer(), server_default="0", nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("reserved_tokens", sa.BigInteger(), nullable=False),
        sa.Column("spent", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("saved_by_cache", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("replays", sa.Integer(), server_default="0", nullable=False),
        sa.Column("began", sa.Float(), nullable=False),
        sa.Column("ended", sa.Float()),
        sa.Column("why", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["case"], ["cases.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("response"),
    )
    op.create_index(op.f("ix_model_calls_began"), "model_calls", ["began"], unique=False)
    op.create_index("model_calls_of_step", "model_calls", ["case", "key"], unique=False)
    open_ = sa.text("state = 'open'")
    op.create_index("model_calls_open", "model_calls", ["holder"], sqlite_where=open_, postgresql_where=open_)
    sums = ("usd", "usd_open", "tokens", "tokens_open", "usd_more", "tokens_more")
    op.create_table(
        "spending",
        sa.Column("scope", sa.String(8), nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        *(sa.Column(name, sa.BigInteger(), server_default="0", nullable=False) for name in sums),
        sa.PrimaryKeyConstraint("scope", "name", "day"),
    )
