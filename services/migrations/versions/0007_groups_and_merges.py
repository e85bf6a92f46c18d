"""People of one name, merged and hidden; faces drawn and struck out; groups of unknown faces."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0007"
down_revision = "0006"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _exact(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_nopad_bin"), "mysql", "mariadb"
    )


def _persons() -> list[sa.Column[object]]:
    return [
        sa.Column("hidden", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("face_image_id", _ID),
        sa.Column("face_index", sa.Integer),
    ]


def upgrade() -> None:
    """Add what services of revision 0006 need not know: what they write is nobody's exception."""
    if op.get_context().dialect.name == "sqlite":
        _rebuild_persons()
    else:
        for column in _persons():
            op.add_column("persons", column)
        # Receivers of before name the index, so it is there beside its successor, without the rule.
        op.execute(
            "ALTER TABLE persons DROP INDEX uq_persons_name, ADD INDEX uq_persons_name (name)"
        )
    op.create_index("ix_persons_name", "persons", ["name"])
    for name in ("drawn", "struck_out", "forgotten"):
        op.add_column(
            "faces", sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false())
        )
    op.add_column("encoding_work", sa.Column("after_person_id", _ID))
    _add_merges()
    _add_erasures()
    _add_groups()


def _add_merges() -> None:
    op.create_table(
        "person_merges",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column(
            "person_id",
            _ID,
            sa.ForeignKey("persons.id", ondelete="CASCADE", name="fk_person_merges_person_id"),
            nullable=False,
        ),
        sa.Column("name", _exact(100), nullable=False),
        sa.Column("moved", sa.JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_person_merges_person_id", "person_merges", ["person_id"])


def _add_erasures() -> None:
    op.create_table(
        "erasures",
        sa.Column("person_id", _ID, primary_key=True, autoincrement=False),
        sa.Column("name", _exact(100), nullable=False),
        sa.Column("folders", sa.JSON, nullable=False),
        sa.Column("pictures", sa.Boolean, nullable=False),
        sa.Column("stage", sa.String(10), nullable=False),
        sa.Column("after_image_id", _ID, nullable=False),
        sa.Column("claim_token", sa.String(32)),
        sa.Column("due_at", sa.BigInteger, nullable=False),
    )


def _face_key(table: str) -> list[sa.schema.SchemaItem]:
    return [
        sa.Column("image_id", _ID, primary_key=True, autoincrement=False),
        sa.Column("face_index", sa.Integer, primary_key=True, autoincrement=False),
        sa.ForeignKeyConstraint(
            ["image_id", "face_index"],
            ["faces.image_id", "faces.face_index"],
            ondelete="CASCADE",
            name=f"fk_{table}_face",
        ),
    ]


def _reference(table: str, name: str, constraint: str) -> sa.ForeignKey:
    return sa.ForeignKey(f"{table}.id", ondelete="CASCADE", name=f"fk_{name}_{constraint}")


def _add_groups() -> None:
    op.create_table(
        "face_groups",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("merged_into", _ID),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_face_groups_size_id", "face_groups", ["size", "id"])
    op.create_table(
        "group_faces",
        *_face_key("group_faces"),
        sa.Column("group_id", _ID, nullable=False),
    )
    op.create_index("ix_group_faces_group_id", "group_faces", ["group_id", "image_id"])
    op.create_table(
        "group_denials",
        *_face_key("group_denials"),
        sa.Column(
            "group_id",
            _ID,
            _reference("face_groups", "group_denials", "group_id"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_group_denials_group_id", "group_denials", ["group_id"])
    op.create_table(
        "group_questions",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column(
            "group_id",
            _ID,
            _reference("face_groups", "group_questions", "group_id"),
            nullable=False,
        ),
        sa.Column("other_group_id", _ID, _reference("face_groups", "group_questions", "other")),
        sa.Column("person_id", _ID, _reference("persons", "group_questions", "person_id")),
        sa.Column("likeness", sa.Float),
        sa.Column("answer", sa.String(5)),
        sa.Column("answered_at", sa.BigInteger),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("group_id", "other_group_id", name="uq_group_questions_groups"),
        sa.UniqueConstraint("group_id", "person_id", name="uq_group_questions_person"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_group_questions_answer", "group_questions", ["answer", "likeness"])
    op.create_index("ix_group_questions_other", "group_questions", ["other_group_id"])
    op.create_index("ix_group_questions_person_id", "group_questions", ["person_id"])
    work = op.create_table(
        "group_work",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("engine", _exact(64)),
        sa.Column("claim_token", sa.String(32)),
        sa.Column("due_at", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(work, [{"id": 1, "due_at": 0}])


def _rebuild_persons() -> None:
    """Make the table anew without the rule of one name, which SQLite cannot take away.

    Foreign keys are off in migrations, so the rows of the old table go alone. No id is given twice,
    not even of somebody who is gone.
    """
    op.create_table(
        "new_persons",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("name", _exact(100), nullable=False),
        sa.Column("folder", _exact(100)),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        *_persons(),
        sa.UniqueConstraint("folder", name="uq_persons_folder"),
        sqlite_autoincrement=True,
    )
    columns = "id, name, folder, created_at"
    op.execute(f"INSERT INTO new_persons ({columns}) SELECT {columns} FROM persons")  # noqa: S608
    op.execute("DELETE FROM sqlite_sequence WHERE name = 'new_persons'")
    op.execute(
        "INSERT INTO sqlite_sequence (name, seq)"
        " SELECT 'new_persons', seq FROM sqlite_sequence WHERE name = 'persons'"
    )
    op.drop_table("persons")
    op.rename_table("new_persons", "persons")
