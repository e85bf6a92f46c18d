"""How far the stored faces are with encodings of the engine in use."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add a table of one row, which services of revision 0005 need not know."""
    engine = sa.String(64).with_variant(
        mysql.VARCHAR(64, charset="utf8mb4", collation="utf8mb4_nopad_bin"), "mysql", "mariadb"
    )
    work = op.create_table(
        "encoding_work",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("stopped", sa.Boolean, nullable=False),
        sa.Column("engine", engine),
        sa.Column(
            "after_image_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
        ),
        sa.Column("images_left", sa.Integer),
        sa.Column("faces_encoded", sa.Integer, nullable=False),
        sa.Column("images_skipped", sa.Integer, nullable=False),
        sa.Column("next_look_at", sa.BigInteger),
        sa.Column("remove_at", sa.BigInteger),
        sa.Column("claim_token", sa.String(32)),
        sa.Column("due_at", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(
        work,
        [
            {
                "id": 1,
                "stopped": False,
                "after_image_id": 0,
                "faces_encoded": 0,
                "images_skipped": 0,
                "due_at": 0,
            }
        ],
    )
