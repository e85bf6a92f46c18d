"""The tables. Times are milliseconds since the Unix epoch, UTC (see clock.py).

``images.due_at`` says when the redeemer looks at a row next: for pending when to ring for it
(again), for processing when the lease ends, for failed when the next attempt may start; it is
NULL for what is final.
"""

from collections.abc import Iterator
from dataclasses import fields
from types import NoneType
from typing import Any, Final, get_args

import sqlalchemy as sa

from services.common.column_types import Candidates, EncodingColumn, Id, QualityColumn, exact
from services.common.faces import Box, MeasuredFace
from services.common.object_keys import MAX_PATH_LENGTH
from services.common.person_names import MAX_NAME_LENGTH
from services.common.quality import Quality

metadata = sa.MetaData(naming_convention={"fk": "fk_%(table_name)s_%(column_0_name)s"})

images = sa.Table(
    "images",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("path", exact(MAX_PATH_LENGTH), nullable=False),
    sa.Column("name", exact(255), nullable=False),
    sa.Column("status", sa.String(10), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("claim_token", sa.String(32)),
    sa.Column("due_at", sa.BigInteger),
    sa.Column("error", exact(500)),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("processed_at", sa.BigInteger),
    sa.Column("width", sa.Integer),
    sa.Column("height", sa.Integer),
    sa.Column("engine", sa.String(64)),
    # SHA-256 of what was uploaded; NULL for a picture that somebody else put into the store.
    sa.Column("content_digest", sa.String(64)),
    # The object's tag (objects.py) when the result was made; NULL before, and in older results.
    sa.Column("object_tag", sa.String(255)),
    # When it was submitted again; NULL: never, or within an hour (picture_rows.py).
    sa.Column("submitted_at", sa.BigInteger),
    sa.UniqueConstraint("path", name="uq_images_path"),
    # Partial where that is possible: paths that are submitted alone need no entry.
    sa.Index(
        "uq_images_content_digest",
        "content_digest",
        unique=True,
        sqlite_where=sa.text("content_digest IS NOT NULL"),
    ),
    sa.Index("ix_images_status_id", "status", "id"),
    sa.Index("ix_images_status_due_at", "status", "due_at"),
    sqlite_autoincrement=True,  # an id is never given twice, as in MariaDB
)


def _measured() -> Iterator[sa.Column[Any]]:
    """Yield the columns of what is measured of a face: a box has one for each of its sides."""
    types = {float: sa.Float, Quality: QualityColumn}
    for field in fields(MeasuredFace):
        if field.type is Box:
            yield from (sa.Column(side.name, sa.Integer, nullable=False) for side in fields(Box))
        else:
            kind, *rest = get_args(field.type) or (field.type,)
            yield sa.Column(field.name, types[kind], nullable=NoneType in rest)


faces = sa.Table(
    "faces",
    metadata,
    sa.Column("image_id", Id, sa.ForeignKey("images.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("face_index", sa.Integer, primary_key=True),
    *_measured(),
    sa.Column("ambiguous", sa.Boolean, nullable=False),
    # Null for nobody known; null, ambiguous and with candidates: a person is to say who it is.
    sa.Column("person", exact(MAX_NAME_LENGTH)),
    # Whose name that is; NULL, too, while nobody has looked it up: older services write the name
    # alone, and of somebody whose pictures were put by hand there may be no row yet.
    sa.Column("person_id", Id, sa.ForeignKey("persons.id", ondelete="SET NULL")),
    sa.Column("distance", sa.Float),
    # [{"person": str, "image_name": str, "distance": float}], likeliest first.
    sa.Column("candidates", Candidates, nullable=False),
    # A DecidedBy. NULL in rows of before, and a receiver of before leaves it as it is: a person
    # without a distance was named by hand, whatever stands here.
    sa.Column("decided_by", sa.String(7)),
    # A person has drawn the box, where no machine saw a face.
    sa.Column("drawn", sa.Boolean, nullable=False, server_default=sa.false()),
    # A person has said that this is no face, or whose it was is forgotten: it has no name and no
    # encoding, gets none, and is shown nowhere. Its row keeps the place.
    sa.Column("struck_out", sa.Boolean, nullable=False, server_default=sa.false()),
    # Whose it was is forgotten, so it is never restored.
    sa.Column("forgotten", sa.Boolean, nullable=False, server_default=sa.false()),
    # How alike it is to the likeliest candidate, NULL without one, and the version of what that was
    # held against; both NULL by hand, and in results of before they were kept.
    sa.Column("likeness", sa.Float),
    sa.Column("calibration", sa.Integer),
    # Of a name, those without an id, by image.
    sa.Index("ix_faces_person", "person", "person_id", "image_id"),
    sa.Index("ix_faces_person_id_image_id", "person_id", "image_id"),
)

BOX: Final = tuple(faces.c[side.name] for side in fields(Box))
"""The columns of where a face is."""


def _face_of(table: str) -> tuple[sa.schema.SchemaItem, ...]:
    """Return what makes a row one of a face, with which it goes: key columns, foreign key."""
    return (
        sa.Column("image_id", Id, primary_key=True),
        sa.Column("face_index", sa.Integer, primary_key=True),
        sa.ForeignKeyConstraint(
            ["image_id", "face_index"],
            [faces.c.image_id, faces.c.face_index],
            ondelete="CASCADE",
            name=f"fk_{table}_face",
        ),
    )


# What a face is compared by. A table of its own: listings read faces without it, and whoever
# compares reads all of it and nothing of faces. In InnoDB a row takes 635 bytes with 128 numbers,
# 2,356 with 512, beside the 435 of a face; in one table both would take as much.
#
# The key holds the engine, so that those of an engine can be made while those of another serve.
# They go with their face, whoever deletes it, also a version that knows nothing of them.
face_encodings = sa.Table(
    "face_encodings",
    metadata,
    *_face_of("face_encodings"),
    sa.Column("engine", exact(64), primary_key=True),
    sa.Column("encoding", EncodingColumn, nullable=False),
)

persons = sa.Table(
    "persons",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("name", exact(MAX_NAME_LENGTH), nullable=False),
    # Where the known pictures lie, below known_people/, in Unicode's NFC; it stays when the name
    # changes. NULL in rows of before, and of older services: then it is the name.
    sa.Column("folder", exact(MAX_NAME_LENGTH)),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    # Left out where people are listed and suggested; pictures show the name.
    sa.Column("hidden", sa.Boolean, nullable=False, server_default=sa.false()),
    # The face that stands for them, as a person chose; NULL: the page takes one. It may be gone, or
    # somebody else's by now.
    sa.Column("face_image_id", Id),
    sa.Column("face_index", sa.Integer),
    # People may bear the same name.
    sa.Index("ix_persons_name", "name"),
    sa.UniqueConstraint("folder", name="uq_persons_folder"),
    sqlite_autoincrement=True,  # people_work may hold the id of somebody who is gone
)

# What a person has said of a face: this is not so-and-so. No machine names it so.
face_denials = sa.Table(
    "face_denials",
    metadata,
    *_face_of("face_denials"),
    sa.Column("person_id", Id, sa.ForeignKey("persons.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ix_face_denials_person_id", "person_id"),
)

person_images = sa.Table(
    "person_images",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("person_id", Id, sa.ForeignKey("persons.id", ondelete="CASCADE"), nullable=False),
    # The known picture's key below known_people/, for example "Grace Hopper/<sha256>.jpg".
    sa.Column("image_name", exact(MAX_PATH_LENGTH), nullable=False),
    # The face that it was cut out of, which a hand has named so; NULL for a file of its own, and
    # in rows of before. That image may be gone. Without an index, that image has other faces now.
    sa.Column("image_id", Id),
    sa.Column("face_index", sa.Integer),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("image_name", name="uq_person_images_image_name"),
    sa.Index("ix_person_images_image_id", "image_id", "face_index"),
    sa.Index("ix_person_images_person_id", "person_id"),
    sqlite_autoincrement=True,  # its id is part of the address of a picture that browsers keep
)

# Two people who were said to be one: what was the other's, for whoever takes that back.
person_merges = sa.Table(
    "person_merges",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    # Who they are now.
    sa.Column("person_id", Id, sa.ForeignKey("persons.id", ondelete="CASCADE"), nullable=False),
    sa.Column("name", exact(MAX_NAME_LENGTH), nullable=False),
    # What the row of the other was ("id", "folder", "hidden", "face", "created_at"), and what went
    # over: known pictures ("pictures": [id]), faces named by hand ("faces": [[image id, index]]),
    # earlier merges ("merges": [id]); of what a hand said is not theirs, as faces, what was theirs
    # alone ("denials"), of both ("both"), and what went because the face was the one's by hand
    # whom the other was not ("dropped" of them, "lifted" of whom they are now).
    sa.Column("moved", sa.JSON, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ix_person_merges_person_id", "person_id"),
    sqlite_autoincrement=True,
)

# People who are being forgotten for good. The row stays until no trace of theirs is left that is to
# be removed; the person has no name meanwhile.
erasures = sa.Table(
    "erasures",
    metadata,
    sa.Column("person_id", Id, primary_key=True, autoincrement=False),
    sa.Column("name", exact(MAX_NAME_LENGTH), nullable=False),
    # Where known pictures of theirs lie or lay, in NFC.
    sa.Column("folders", sa.JSON, nullable=False),
    # Whether the pictures in which they are go, too.
    sa.Column("pictures", sa.Boolean, nullable=False),
    # A Stage of services/receiver/domain/erasing.py.
    sa.Column("stage", sa.String(10), nullable=False),
    # In this stage, all images up to this one have no question about them any more.
    sa.Column("after_image_id", Id, nullable=False),
    # Set while somebody works on it, until the lease ends at due_at.
    sa.Column("claim_token", sa.String(32)),
    sa.Column("due_at", sa.BigInteger, nullable=False),
)

# Faces of one person whom nobody has named, as far as their encodings tell; the service people
# makes them. A group of which all faces went to another says so, for its address.
face_groups = sa.Table(
    "face_groups",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    # Faces in it: 0 once all have a name, are gone, or are in the other group.
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("merged_into", Id),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ix_face_groups_size_id", "size", "id"),
    sqlite_autoincrement=True,
)

# Which faces are in them.
group_faces = sa.Table(
    "group_faces",
    metadata,
    *_face_of("group_faces"),
    sa.Column("group_id", Id, nullable=False),
    sa.Index("ix_group_faces_group_id", "group_id", "image_id"),
)

# What a person has said of a face: it does not belong in this group.
group_denials = sa.Table(
    "group_denials",
    metadata,
    *_face_of("group_denials"),
    sa.Column(
        "group_id", Id, sa.ForeignKey("face_groups.id", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ix_group_denials_group_id", "group_id"),
)

# A group, and another or a person, who may be the same: a person is to say.
group_questions = sa.Table(
    "group_questions",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("group_id", Id, sa.ForeignKey("face_groups.id", ondelete="CASCADE"), nullable=False),
    # One of them; of two groups the other has the higher id.
    sa.Column(
        "other_group_id",
        Id,
        sa.ForeignKey("face_groups.id", ondelete="CASCADE", name="fk_group_questions_other"),
    ),
    sa.Column("person_id", Id, sa.ForeignKey("persons.id", ondelete="CASCADE")),
    # NULL once the machine would not ask any more.
    sa.Column("likeness", sa.Float),
    # NULL: open; else "no" or "later", or "yes" while the service people joins two groups.
    sa.Column("answer", sa.String(5)),
    sa.Column("answered_at", sa.BigInteger),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("group_id", "other_group_id", name="uq_group_questions_groups"),
    sa.UniqueConstraint("group_id", "person_id", name="uq_group_questions_person"),
    sa.Index("ix_group_questions_answer", "answer", "likeness"),
    sa.Index("ix_group_questions_other", "other_group_id"),
    sa.Index("ix_group_questions_person_id", "person_id"),
    sqlite_autoincrement=True,
)

# Who makes groups: one row, which the migration made. One replica of the service people at a time.
group_work = sa.Table(
    "group_work",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    # The engine whose encodings the groups are of; NULL before there were any.
    sa.Column("engine", exact(64)),
    # Set while somebody works on it, until the lease ends at due_at.
    sa.Column("claim_token", sa.String(32)),
    sa.Column("due_at", sa.BigInteger, nullable=False),
)

# Who has changed, so that stored faces are to be decided again. Written in the transaction of the
# change; one row a person, however often they change.
people_work = sa.Table(
    "people_work",
    metadata,
    # Of somebody who may be gone.
    sa.Column("person_id", Id, primary_key=True, autoincrement=False),
    sa.Column("folder", exact(MAX_NAME_LENGTH), nullable=False),
    # Whether a known picture, or all of them, went: who was named or asked about by it is nobody
    # whom the pictures that are left would find.
    sa.Column("removed", sa.Boolean, nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    # Set while somebody works on it, NULL again when the person has changed since.
    sa.Column("claim_token", sa.String(32)),
    # All faces of images up to this one are decided.
    sa.Column("after_image_id", Id, nullable=False),
    # Faces that were recognised by people of before may be stored after a first pass.
    sa.Column("passes_left", sa.Integer, nullable=False),
    sa.Index("ix_people_work_due_at", "due_at"),
)

# Giving stored faces an encoding of the engine in use: one row, which the migration made. Those of
# before there were encodings, and after a change of engine all of them, have none.
encoding_work = sa.Table(
    "encoding_work",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    # A person wants it so; whatever else is here stays as it is meanwhile.
    sa.Column("stopped", sa.Boolean, nullable=False),
    # NULL until face_recog has said which one is in use.
    sa.Column("engine", exact(64)),
    # All faces of images up to this one have an encoding, or were skipped.
    sa.Column("after_image_id", Id, nullable=False),
    # Beyond that, those with a face that has none; NULL until they are counted.
    sa.Column("images_left", sa.Integer),
    # In this pass through all ids, or the last.
    sa.Column("faces_encoded", sa.Integer, nullable=False),
    sa.Column("images_skipped", sa.Integer, nullable=False),
    # When faces without an encoding are looked for again; NULL while there is something to do.
    sa.Column("next_look_at", sa.BigInteger),
    # People up to this id were looked for among what was encoded; NULL when nobody is to be.
    sa.Column("after_person_id", Id),
    # When encodings of other engines go; NULL when they are gone.
    sa.Column("remove_at", sa.BigInteger),
    # Set while somebody works on it, until the lease ends at due_at.
    sa.Column("claim_token", sa.String(32)),
    sa.Column("due_at", sa.BigInteger, nullable=False),
)

# What has changed, for whoever follows along; the redeemer removes rows after an hour. Ids grow,
# but a row may be seen after one with a higher id: their transactions end in any order.
events = sa.Table(
    "events",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    # An EventKind, and the id of the image or person.
    sa.Column("kind", sa.String(10), nullable=False),
    sa.Column("subject_id", Id, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

# Up to where deliveries were made from the events; one row, which whoever makes them locks.
webhook_positions = sa.Table(
    "webhook_positions",
    metadata,
    sa.Column("name", sa.String(10), primary_key=True),
    # A Position (events.py).
    sa.Column("position", sa.Text, nullable=False),
)

# What an endpoint is to be told. It holds no name and no picture: what is sent is read when it is.
webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    # The same at each attempt, so that the endpoint can tell that it knows this already.
    sa.Column("message_id", sa.String(32), nullable=False),
    # Its address; secrets stand in no table.
    sa.Column("endpoint", exact(500), nullable=False),
    # A WebhookType, and the id of the image or person.
    sa.Column("type", sa.String(20), nullable=False),
    sa.Column("subject_id", Id, nullable=False),
    # A DeliveryStatus.
    sa.Column("status", sa.String(10), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    # When it is tried next, or while it is being tried, when somebody else may.
    sa.Column("due_at", sa.BigInteger),
    sa.Column("claim_token", sa.String(32)),
    sa.Column("error", exact(500)),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Index("ix_webhook_deliveries_status_id", "status", "id"),
    sa.Index("ix_webhook_deliveries_endpoint_status_due_at", "endpoint", "status", "due_at"),
    sqlite_autoincrement=True,
)

# Keys of programs, see docs/keys.md. The secret itself stands nowhere.
api_keys = sa.Table(
    "api_keys",
    metadata,
    # What a key says of itself in its first half.
    sa.Column("id", exact(12), primary_key=True),
    sa.Column("name", exact(100), nullable=False),
    # AccessScopes with spaces between them.
    sa.Column("scopes", sa.String(100), nullable=False),
    # HMAC-SHA-256 of the id, in hexadecimal, keyed with the secret.
    sa.Column("tag", sa.String(64), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("created_by", exact(200), nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
    sa.Column("last_used_at", sa.BigInteger),
    sa.Index("ix_api_keys_name", "name"),
)

# People who log in: by a password, or by an OpenID Connect provider, of which issuer and subject
# say who they are.
users = sa.Table(
    "users",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("name", exact(100), nullable=False),
    # A Role.
    sa.Column("role", sa.String(20), nullable=False),
    sa.Column("password_hash", sa.String(200)),
    sa.Column("issuer", exact(250)),
    sa.Column("subject", exact(250)),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("disabled_at", sa.BigInteger),
    sa.UniqueConstraint("name", name="uq_users_name"),
    sa.UniqueConstraint("issuer", "subject", name="uq_users_issuer_subject"),
    sqlite_autoincrement=True,
)

# Who is logged in.
sessions = sa.Table(
    "sessions",
    metadata,
    # SHA-256 of the token that the browser keeps.
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("user_id", Id, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("used_at", sa.BigInteger, nullable=False),
    sa.Column("ends_at", sa.BigInteger, nullable=False),
    sa.Index("ix_sessions_user_id", "user_id"),
    sa.Index("ix_sessions_ends_at", "ends_at"),
)

# Passwords that were wrong, by where they came from and for whom.
log_in_failures = sa.Table(
    "log_in_failures",
    metadata,
    sa.Column("address", exact(45), primary_key=True),
    # SHA-256 of the name, which may be somebody's password, typed into the wrong field; empty for
    # all of the address together.
    sa.Column("name_digest", sa.String(64), primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False),
    # Until when more are refused.
    sa.Column("next_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Index("ix_log_in_failures_updated_at", "updated_at"),
)

# Who did what. Rows are added and, when they are old, removed: nobody changes one. No name of a
# person on a picture stands here, no picture and no encoding.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    # An ActorKind, and the name of the key or user, with its id where it has one.
    sa.Column("kind", sa.String(10), nullable=False),
    sa.Column("who", exact(200), nullable=False),
    sa.Column("actor_id", exact(40)),
    sa.Column("address", exact(45), nullable=False),
    # The operation, by its id in the OpenAPI document.
    sa.Column("action", sa.String(60), nullable=False),
    # A SubjectKind and its id, which not of all is a number.
    sa.Column("subject_kind", sa.String(10)),
    sa.Column("subject_id", exact(20)),
    # The HTTP status of the answer; NULL for what was done.
    sa.Column("status", sa.Integer),
    # How many alike this row stands for.
    sa.Column("times", sa.Integer, nullable=False, server_default=sa.text("1")),
    sa.Index("ix_audit_at", "at"),
    sa.Index("ix_audit_subject_kind_subject_id_id", "subject_kind", "subject_id", "id"),
    sa.Index("ix_audit_who_id", "who", "id"),
    sqlite_autoincrement=True,
)

# Objects that the redeemer removes once they are due, unless a row names them: what was deleted,
# and what is being stored and has no row yet. See "Deleting" in docs/design.md.
garbage = sa.Table(
    "garbage",
    metadata,
    # The whole key: the longest prefix has 13 characters.
    sa.Column("object_key", exact(MAX_PATH_LENGTH + 32), primary_key=True),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    # Only the object with this tag may go, when others than the receiver write the key.
    sa.Column("object_tag", sa.String(255)),
    # Set while a redeemer removes the object.
    sa.Column("claim_token", sa.String(32)),
    # When it was removed first: it is looked for once more, in case a write came late.
    sa.Column("removed_at", sa.BigInteger),
    sa.Index("ix_garbage_due_at", "due_at"),
)

# What became of each backup (services/backup): a row when it begins.
backups = sa.Table(
    "backups",
    metadata,
    sa.Column("name", sa.String(20), primary_key=True),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("finished_at", sa.BigInteger),
    # Until then no redeemer removes an object, so that the dump's rows find theirs.
    sa.Column("held_until", sa.BigInteger),
    # How many objects it names, and their bytes; NULL until it has ended well.
    sa.Column("objects", sa.BigInteger),
    sa.Column("bytes", sa.BigInteger),
    sa.Column("error", exact(500)),
)


def same_face(one: sa.FromClause, other: sa.FromClause) -> sa.ColumnElement[bool]:
    """Return the condition that rows of two tables are of one face."""
    return sa.and_(one.c.image_id == other.c.image_id, one.c.face_index == other.c.face_index)
