"""Images with their faces, people with their known pictures."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _exact(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_nopad_bin"), "mysql", "mariadb"
    )


def upgrade() -> None:
    """Create the first tables."""
    op.create_table(
        "images",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("path", _exact(512), nullable=False),
        sa.Column("name", _exact(255), nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("claim_token", sa.String(32)),
        sa.Column("due_at", sa.BigInteger),
        sa.Column("error", _exact(500)),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("processed_at", sa.BigInteger),
        sa.Column("width", sa.Integer),
        sa.Column("height", sa.Integer),
        sa.Column("engine", sa.String(64)),
        sa.UniqueConstraint("path", name="uq_images_path"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_images_status_id", "images", ["status", "id"])
    op.create_index("ix_images_status_due_at", "images", ["status", "due_at"])
    op.create_table(
        "faces",
        sa.Column(
            "image_id",
            _ID,
            sa.ForeignKey("images.id", ondelete="CASCADE", name="fk_faces_image_id"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("face_index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("left", sa.Integer, nullable=False),
        sa.Column("top", sa.Integer, nullable=False),
        sa.Column("right", sa.Integer, nullable=False),
        sa.Column("bottom", sa.Integer, nullable=False),
        sa.Column("detection_score", sa.Float, nullable=False),
        sa.Column("ambiguous", sa.Boolean, nullable=False),
        sa.Column("person", _exact(100)),
        sa.Column("distance", sa.Float),
        sa.Column("candidates", sa.JSON, nullable=False),
    )
    op.create_index("ix_faces_person_image_id", "faces", ["person", "image_id"])
    op.create_table(
        "persons",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("name", _exact(100), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("name", name="uq_persons_name"),
    )
    op.create_table(
        "person_images",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column(
            "person_id",
            _ID,
            sa.ForeignKey("persons.id", ondelete="CASCADE", name="fk_person_images_person_id"),
            nullable=False,
        ),
        sa.Column("image_name", _exact(512), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("image_name", name="uq_person_images_image_name"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_person_images_person_id", "person_images", ["person_id"])
