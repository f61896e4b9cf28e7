"""A case counts its finished steps, so that a lost row is seen instead of paid for again."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("cases", sa.Column("stored", sa.Integer(), server_default="0", nullable=False))
    op.execute(
        'UPDATE cases SET stored = found.n FROM (SELECT "case", count(*) AS n FROM steps GROUP BY "case") AS found '
        'WHERE cases.id = found."case"'
    )
