"""Webhooks: up to where deliveries are made, and the deliveries."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0008"
down_revision = "0007"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _exact(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_nopad_bin"), "mysql", "mariadb"
    )


def upgrade() -> None:
    """Add tables that services of revision 0007 need not know."""
    op.create_table(
        "webhook_positions",
        sa.Column("name", sa.String(10), primary_key=True),
        sa.Column("position", sa.Text, nullable=False),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("message_id", sa.String(32), nullable=False),
        sa.Column("endpoint", _exact(500), nullable=False),
        sa.Column("type", sa.String(20), nullable=False),
        sa.Column("subject_id", _ID, nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("due_at", sa.BigInteger),
        sa.Column("claim_token", sa.String(32)),
        sa.Column("error", _exact(500)),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_webhook_deliveries_status_id", "webhook_deliveries", ["status", "id"])
    op.create_index(
        "ix_webhook_deliveries_endpoint_status_due_at",
        "webhook_deliveries",
        ["endpoint", "status", "due_at"],
    )
