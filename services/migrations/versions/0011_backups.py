"""Backups: what became of each, and until when objects are kept for one that runs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add a table that services of revision 0010 need not know."""
    op.create_table(
        "backups",
        sa.Column("name", sa.String(20), primary_key=True),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("held_until", sa.BigInteger),
        sa.Column("objects", sa.BigInteger),
        sa.Column("bytes", sa.BigInteger),
        sa.Column(
            "error",
            sa.String(500).with_variant(
                mysql.VARCHAR(500, charset="utf8mb4", collation="utf8mb4_nopad_bin"),
                "mysql",
                "mariadb",
            ),
        ),
    )
