"""Cases know their sender in a column of its own, so that a customer's earlier mail is found among a million."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("cases", sa.Column("sender", sa.Text(), server_default="", nullable=False))
    postgres = op.get_bind().dialect.name == "postgresql"
    found = "(body::json)->>'sender'" if postgres else "json_extract(body, '$.sender')"
    op.execute(f"UPDATE cases SET sender = coalesce({found}, '')")
    known = sa.text("sender != ''")
    columns = ["source", "sender", "id"]
    op.create_index("cases_senders", "cases", columns, sqlite_where=known, postgresql_where=known)
