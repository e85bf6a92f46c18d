"""Objects to remove, and what an image's row needs to tell contents apart."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"


def _exact(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_nopad_bin"), "mysql", "mariadb"
    )


def upgrade() -> None:
    """Add what services of revision 0001 need not know: they leave the new columns NULL."""
    op.add_column("images", sa.Column("content_digest", sa.String(64)))
    op.add_column("images", sa.Column("object_tag", sa.String(255)))
    op.create_index(
        "uq_images_content_digest",
        "images",
        ["content_digest"],
        unique=True,
        sqlite_where=sa.text("content_digest IS NOT NULL"),
    )
    op.create_table(
        "garbage",
        sa.Column("object_key", _exact(544), primary_key=True),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("object_tag", sa.String(255)),
        sa.Column("claim_token", sa.String(32)),
        sa.Column("removed_at", sa.BigInteger),
    )
    op.create_index("ix_garbage_due_at", "garbage", ["due_at"])
