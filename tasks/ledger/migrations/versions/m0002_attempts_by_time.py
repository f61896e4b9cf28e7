"""A tick's table reads the attempts since it began, so they need an index by time."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_index("ix_attempts_begun", "attempts", ["begun"])
