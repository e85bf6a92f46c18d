"""What each face is compared by, and who said whose it is."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add what services of revision 0003 need not know.

    They leave the new columns NULL, and their faces without an encoding; what they delete takes
    its encodings along.
    """
    op.add_column("faces", sa.Column("decided_by", sa.String(7)))
    op.add_column("faces", sa.Column("likeness", sa.Float))
    op.add_column("faces", sa.Column("calibration", sa.Integer))
    image_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    engine = sa.String(64).with_variant(
        mysql.VARCHAR(64, charset="utf8mb4", collation="utf8mb4_nopad_bin"), "mysql", "mariadb"
    )
    encoding = sa.LargeBinary().with_variant(mysql.VARBINARY(16384), "mysql", "mariadb")
    op.create_table(
        "face_encodings",
        sa.Column("image_id", image_id, primary_key=True, autoincrement=False),
        sa.Column("face_index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("engine", engine, primary_key=True),
        sa.Column("encoding", encoding, nullable=False),
        sa.ForeignKeyConstraint(
            ["image_id", "face_index"],
            ["faces.image_id", "faces.face_index"],
            ondelete="CASCADE",
            name="fk_face_encodings_face",
        ),
    )
