"""Answers of models are kept from their booking until their step is stored, so that a kill between loses none."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("model_calls", sa.Column("asked", sa.String(64), server_default="", nullable=False))
    op.add_column("model_calls", sa.Column("reply", sa.Text(), server_default="", nullable=False))
