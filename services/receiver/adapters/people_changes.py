"""The parts that changes of people are made of, each in the transaction of the change.

Rows are locked in this order: the turn, notes of objects, the image, the person, known pictures,
faces, people_work. image_processor goes from the image over people to faces, too. The service
people goes the other way, from people_work over faces to persons: both try again after a deadlock.
"""

import itertools
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import DatabaseClock
from services.common.events import EventKind, note_events
from services.common.faces import DecidedBy
from services.common.people import BY_HAND, FOLDER, LEFT_ITS_ID, lies_in
from services.common.tables import events, faces, images, people_work, persons
from services.receiver.domain import ConflictError, FaceKey

_PASSES: Final = 2
"""The second is over faces that were being recognised during the first by people of before."""

_FOLDER_LETTERS: Final = 40
"""Of a name in a folder that cannot be the name: at most 160 bytes, with room for a number."""


async def find_folder(connection: AsyncConnection, name: str, others: Collection[str] = ()) -> str:
    """Return where the known pictures of somebody of this name lie, or would lie.

    For somebody new who cannot have the name as a folder, that is none of the ``others``.
    """
    own: str | None = await connection.scalar(sa.select(FOLDER).where(persons.c.name == name))
    if own is not None:
        return own
    if not await _is_taken(connection, name):
        return name
    # Somebody who was called so before has it. Others find the same one at the same time.
    letters = "".join(one for one in name[:_FOLDER_LETTERS] if one.isalnum() or one == " ")
    stem = unicodedata.normalize("NFC", letters).strip()
    for number in itertools.count(2):
        numbered = f"{stem}~{number}"
        if numbered not in others and not await _is_taken(connection, numbered):
            return numbered
    raise AssertionError("unreachable")


async def _is_taken(connection: AsyncConnection, folder: str) -> bool:
    return bool(await connection.scalar(sa.select(sa.exists().where(lies_in([folder])))))


async def lock_person(connection: AsyncConnection, name: str, folder: str) -> int | None:
    """Return the id of the person of this name, None when there is no row.

    Raises :class:`ConflictError` when their pictures do not lie in the folder any more, or would
    not.
    """
    # A numbered one may have been left out for what lies there; nobody has taken this one since.
    found = await find_folder(connection, name)
    new = found != name and not await _is_taken(connection, folder)
    person_id = await person_of_name(connection, name)
    if found != folder and (person_id is not None or not new):
        raise ConflictError(f"{name!r} has just come, gone or got another name: try again")
    return person_id


async def person_of_name(connection: AsyncConnection, name: str | None) -> int | None:
    """Lock the person of this name and return the id, None when there is no row."""
    found: int | None = await connection.scalar(
        sa.select(persons.c.id).where(persons.c.name == name).with_for_update()
    )
    return found


async def add_person(connection: AsyncConnection, name: str, folder: str, now: int) -> int:
    """Make the row of a person and return its id."""
    inserted: sa.CursorResult[tuple[()]] = await connection.execute(
        sa.insert(persons).values(name=name, folder=folder, created_at=now)
    )
    return int(inserted.lastrowid)


async def note_change(
    connection: AsyncConnection,
    clock: DatabaseClock,
    person_id: int,
    folder: str,
    *,
    removed: bool = False,
) -> None:
    """Have stored faces decided again, because a person has changed; tell those who follow along.

    ``removed``: known pictures went.
    """
    changed: dict[str, Any] = {
        "folder": folder,
        "due_at": clock(),
        "claim_token": None,
        "after_image_id": 0,
        "passes_left": _PASSES,
        **({"removed": True} if removed else {}),
    }
    values = {"person_id": person_id, "removed": removed, **changed}
    insert: sa.Insert
    if connection.dialect.name == "sqlite":
        insert = (
            sqlite.insert(people_work)
            .values(values)
            .on_conflict_do_update(index_elements=[people_work.c.person_id], set_=changed)
        )
    else:
        insert = mysql.insert(people_work).values(values).on_duplicate_key_update(changed)
    await connection.execute(insert)
    await note_events(connection, clock(), EventKind.PERSON, [person_id])


async def note_change_by_id(
    connection: AsyncConnection, clock: DatabaseClock, person_id: int, *, removed: bool = False
) -> None:
    """Do as :func:`note_change` for a person whose folder need be looked up."""
    found = await connection.scalar(sa.select(FOLDER).where(persons.c.id == person_id))
    if found is not None:
        await note_change(connection, clock, person_id, found, removed=removed)


@dataclass(frozen=True)
class StoredFace:
    """A face whose image is locked; ``person_id`` is None where no row is the person's, too."""

    key: FaceKey
    processed_at: int | None
    person_id: int | None
    person: str | None
    by_hand: bool
    candidates: list[dict[str, Any]]

    @property
    def named(self) -> str | None:
        """Return the name that a hand gave it."""
        return self.person if self.by_hand else None


async def lock_face(connection: AsyncConnection, key: FaceKey) -> StoredFace | None:
    """Lock a face's image and return the face; None when there is none.

    Whoever stores or gives up a result locks the image, too.
    """
    lock = sa.select(images.c.processed_at).where(images.c.id == key.image_id).with_for_update()
    image = (await connection.execute(lock)).first()
    query = (
        sa.select(
            faces,
            BY_HAND.label("by_hand"),
            LEFT_ITS_ID.label("left_its_id"),
            persons.c.name.label("whose"),
        )
        .select_from(faces.outerjoin(persons, persons.c.id == faces.c.person_id))
        .where(_is(key))
    )
    row = (await connection.execute(query)).first()
    if image is None or row is None:
        return None
    by_text = row.whose is None or row.left_its_id
    person = row.person if by_text else row.whose
    person_id = None if by_text else row.person_id
    if person_id is None and person is not None:
        person_id = await person_of_name(connection, person)
    return StoredFace(key, image.processed_at, person_id, person, bool(row.by_hand), row.candidates)


async def name_by_hand(
    connection: AsyncConnection, clock: DatabaseClock, key: FaceKey, person_id: int, person: str
) -> None:
    """Write down whose face it is, as a person said."""
    # Nobody measured a distance, and a person's word is not a guess.
    by_hand = {"person_id": person_id, "person": person, "decided_by": DecidedBy.HAND}
    await connection.execute(
        sa.update(faces).where(_is(key)).values(**{**_UNDECIDED, "ambiguous": False, **by_hand})
    )
    await note_events(connection, clock(), EventKind.IMAGE, [key.image_id])


async def take_name(
    connection: AsyncConnection, clock: DatabaseClock, key: FaceKey, **values: Any
) -> None:
    """Leave a face without a name, to be decided by the machine; set these values, too."""
    await connection.execute(sa.update(faces).where(_is(key)).values(**{**_UNDECIDED, **values}))
    await note_events(connection, clock(), EventKind.IMAGE, [key.image_id])


async def set_candidates(
    connection: AsyncConnection,
    clock: DatabaseClock,
    key: FaceKey,
    candidates: list[dict[str, Any]],
) -> None:
    """Write down who a face may be."""
    await connection.execute(sa.update(faces).where(_is(key)).values(candidates=candidates))
    await note_events(connection, clock(), EventKind.IMAGE, [key.image_id])


async def take_all_names(
    connection: AsyncConnection, clock: DatabaseClock, person_id: int, name: str
) -> None:
    """Leave all faces of a person without a name, also those that have it as a text alone."""
    for its in (
        sa.and_(faces.c.person_id == person_id, ~LEFT_ITS_ID),
        sa.and_(faces.c.person == name, sa.or_(faces.c.person_id.is_(None), LEFT_ITS_ID)),
    ):
        found = sa.select(sa.literal(EventKind.IMAGE), faces.c.image_id, clock()).where(its)
        await connection.execute(
            sa.insert(events).from_select(["kind", "subject_id", "created_at"], found.distinct())
        )
        await connection.execute(sa.update(faces).where(its).values(_UNDECIDED))


async def adopt(connection: AsyncConnection, person_id: int, name: str) -> None:
    """Give the faces that have a person's name as a text alone the id, so that they follow it."""
    await connection.execute(
        sa.update(faces)
        .where(faces.c.person == name, sa.or_(faces.c.person_id.is_(None), LEFT_ITS_ID))
        # What is by hand is said so with the id, which would not count.
        .values(
            person_id=person_id,
            decided_by=sa.case((LEFT_ITS_ID, DecidedBy.HAND), else_=faces.c.decided_by),
        )
    )


def _is(key: FaceKey) -> sa.ColumnElement[bool]:
    return sa.and_(faces.c.image_id == key.image_id, faces.c.face_index == key.index)


_UNDECIDED: Final[dict[str, Any]] = {
    "person": None,
    "person_id": None,
    "distance": None,
    "decided_by": DecidedBy.MACHINE,
    "likeness": None,
    "calibration": None,
    # Who it may be, if anybody, is a question again.
    "ambiguous": sa.type_coerce(faces.c.candidates, sa.String) != "[]",
}
