"""People by id, what is not theirs, whom to decide again, and what has changed."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0005"
down_revision = "0004"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _exact(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_nopad_bin"), "mysql", "mariadb"
    )


def upgrade() -> None:
    """Add what services of revision 0004 need not know.

    They leave the new columns NULL, and write neither events nor work.
    """
    if op.get_context().dialect.name == "sqlite":
        _rebuild_persons()
        # Which adds a constraint with its column alone.
        op.execute(
            "ALTER TABLE faces ADD COLUMN person_id INTEGER"
            " REFERENCES persons (id) ON DELETE SET NULL"
        )
    else:
        op.add_column("persons", sa.Column("folder", _exact(100)))
        op.create_index("uq_persons_folder", "persons", ["folder"], unique=True)
        op.add_column("faces", sa.Column("person_id", _ID))
        # The column is NULL everywhere: without a check, the table is not copied while services
        # wait to write. MariaDB does the other statements online by itself.
        op.execute("SET SESSION foreign_key_checks = 0")
        op.execute(
            "ALTER TABLE faces ADD CONSTRAINT fk_faces_person_id"
            " FOREIGN KEY IF NOT EXISTS (person_id) REFERENCES persons (id) ON DELETE SET NULL,"
            " ALGORITHM=INPLACE, LOCK=NONE"
        )
        op.execute("SET SESSION foreign_key_checks = 1")
    op.create_index("ix_faces_person_id_image_id", "faces", ["person_id", "image_id"])
    # Of a name, those without an id lie together, by image: most have one. Services of before read
    # a person's by this, too, and sort them.
    op.create_index("ix_faces_person", "faces", ["person", "person_id", "image_id"])
    op.drop_index("ix_faces_person_image_id", "faces")
    op.add_column("person_images", sa.Column("image_id", _ID))
    op.add_column("person_images", sa.Column("face_index", sa.Integer))
    op.create_index("ix_person_images_image_id", "person_images", ["image_id", "face_index"])
    op.create_table(
        "face_denials",
        sa.Column("image_id", _ID, primary_key=True, autoincrement=False),
        sa.Column("face_index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column(
            "person_id",
            _ID,
            sa.ForeignKey("persons.id", ondelete="CASCADE", name="fk_face_denials_person_id"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["image_id", "face_index"],
            ["faces.image_id", "faces.face_index"],
            ondelete="CASCADE",
            name="fk_face_denials_face",
        ),
    )
    op.create_index("ix_face_denials_person_id", "face_denials", ["person_id"])
    op.create_table(
        "people_work",
        sa.Column("person_id", _ID, primary_key=True, autoincrement=False),
        sa.Column("folder", _exact(100), nullable=False),
        sa.Column("removed", sa.Boolean, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("claim_token", sa.String(32)),
        sa.Column("after_image_id", _ID, nullable=False),
        sa.Column("passes_left", sa.Integer, nullable=False),
    )
    op.create_index("ix_people_work_due_at", "people_work", ["due_at"])
    op.create_table(
        "events",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("subject_id", _ID, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )


def _rebuild_persons() -> None:
    """Add the column, and have no id given twice, as in MariaDB: others than rows remember it.

    SQLite says so only where a table is made. Foreign keys are off in migrations, so the rows of
    the old table go alone.
    """
    op.create_table(
        "new_persons",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("name", _exact(100), nullable=False),
        sa.Column("folder", _exact(100)),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("name", name="uq_persons_name"),
        sa.UniqueConstraint("folder", name="uq_persons_folder"),
        sqlite_autoincrement=True,
    )
    op.execute(
        "INSERT INTO new_persons (id, name, created_at) SELECT id, name, created_at FROM persons"
    )
    op.drop_table("persons")
    op.rename_table("new_persons", "persons")
