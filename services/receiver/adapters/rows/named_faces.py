"""Whose faces are: the parts of transactions that lock, name and give them to others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import database_now
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.faces import DecidedBy
from services.common.person_rows import BY_HAND, LEFT_ITS_ID, WHOSE, WHOSE_ID, bearer
from services.common.tables import (
    erasures,
    events,
    face_denials,
    faces,
    images,
    person_merges,
    persons,
    same_face,
)
from services.receiver.domain.erasing import Stage
from services.receiver.domain.faces import FaceKey

CHANGED: Final = 1_000
"""Images whose faces one transaction changes; of more, the rest is done in parts."""


UNDECIDED: Final[dict[str, Any]] = {
    "person": None,
    "person_id": None,
    "distance": None,
    "decided_by": DecidedBy.MACHINE,
    "likeness": None,
    "calibration": None,
    # Who it may be, if anybody, is a question again.
    "ambiguous": sa.type_coerce(faces.c.candidates, sa.String) != "[]",
}
"""What the row of a face says whose name is to be decided by the machine."""


@dataclass(frozen=True)
class LockedFace:
    """A face whose image is locked; ``person_id`` is None where no row is the person's, too."""

    key: FaceKey
    processed_at: int | None
    person_id: int | None
    person: str | None
    by_hand: bool
    candidates: list[dict[str, Any]]

    @property
    def named(self) -> int | None:
        """Return whom a hand has said that it is."""
        return self.person_id if self.by_hand else None


async def lock_face(connection: AsyncConnection, key: FaceKey) -> LockedFace | None:
    """Lock a face's image and return the face; None when there is none, or it was struck out.

    Whoever stores or gives up a result locks the image, too.
    """
    lock = sa.select(images.c.processed_at).where(images.c.id == key.image_id).with_for_update()
    image = (await connection.execute(lock)).first()
    query = (
        sa.select(faces, BY_HAND.label("by_hand"), WHOSE.label("whose"), WHOSE_ID.label("whose_id"))
        .select_from(faces.outerjoin(persons, persons.c.id == faces.c.person_id))
        .where(is_face(faces, key), ~faces.c.struck_out)
    )
    row = (await connection.execute(query)).first()
    if image is None or row is None:
        return None
    person_id = row.whose_id
    if person_id is not None:
        person_id = await _merged_into(connection, person_id)
    elif row.whose is not None:
        person_id = await find_bearer(connection, row.whose)
    return LockedFace(
        key, image.processed_at, person_id, row.whose, bool(row.by_hand), row.candidates
    )


async def _merged_into(connection: AsyncConnection, person_id: int) -> int:
    """Return who a person is who was said to be another, whose faces are still to follow."""
    kept = (
        sa.select(person_merges.c.person_id)
        .join_from(erasures, person_merges, person_merges.c.moved["id"].as_integer() == person_id)
        .where(erasures.c.person_id == person_id, erasures.c.stage == Stage.MERGED)
    )
    return await connection.scalar(kept) or person_id


async def change_face(connection: AsyncConnection, key: FaceKey, values: Mapping[str, Any]) -> None:
    """Write down something else of a face, and tell those who follow along of its image."""
    await connection.execute(sa.update(faces).where(is_face(faces, key)).values(values))
    await note_events(connection, database_now(), EventKind.IMAGE, [key.image_id])


def by_hand(person_id: int, person: str) -> dict[str, Any]:
    """Return what the row of a face says that somebody has named."""
    # Nobody measured a distance, and a person's word is not a guess.
    said = {"person_id": person_id, "person": person, "decided_by": DecidedBy.HAND}
    return {**UNDECIDED, "ambiguous": False, **said}


async def take_names(connection: AsyncConnection, person_id: int, most: int) -> bool:
    """Leave faces of a person without a name, in so many images; tell whether there may be more."""
    ids = await _change_faces(connection, person_id, most, UNDECIDED)
    return len(ids) == most


async def move_faces(connection: AsyncConnection, person_id: int, new_id: int, most: int) -> bool:
    """Give faces of a person to another, in so many images; tell whether there may be more."""
    its_name = sa.select(persons.c.name).where(persons.c.id == new_id)
    new = {"person_id": new_id, "person": (await connection.scalars(its_name)).one()}
    ids = await _change_faces(connection, person_id, most, new)
    await take_denied_names(connection, new_id, faces.c.image_id.in_(ids))
    return len(ids) == most


async def _change_faces(
    connection: AsyncConnection, person_id: int, most: int, values: dict[str, Any]
) -> list[int]:
    """Change the rows of a person's faces in the first so many images; return these."""
    its = are_of(person_id)
    some = sa.select(faces.c.image_id).distinct().where(its).order_by(faces.c.image_id)
    ids = list(await connection.scalars(some.limit(most)))
    of_images = sa.and_(faces.c.image_id.in_(ids), its)
    await connection.execute(sa.update(faces).where(of_images).values(values))
    await note_events(connection, database_now(), EventKind.IMAGE, ids)
    return ids


async def take_denied_names(
    connection: AsyncConnection, person_id: int, *which: sa.ColumnElement[bool]
) -> None:
    """Leave faces without the name that a machine gave them, of which a hand says they are not."""
    its = sa.and_(faces.c.person_id == person_id, ~BY_HAND, are_denied(person_id), *which)
    await connection.execute(sa.update(faces).where(its).values(UNDECIDED))


async def adopt(connection: AsyncConnection, person_id: int, name: str) -> None:
    """Give the faces that have a person's name as a text alone the id, so that they follow it."""
    await connection.execute(
        sa.update(faces)
        .where(have_name_alone(name))
        # What is by hand is said so with the id, which would not count.
        .values(
            person_id=person_id,
            decided_by=sa.case((LEFT_ITS_ID, DecidedBy.HAND), else_=faces.c.decided_by),
        )
    )


def have_name_alone(name: str) -> sa.ColumnElement[bool]:
    """Return the condition of faces that have only this name, as older services write it."""
    return sa.and_(faces.c.person == name, sa.or_(faces.c.person_id.is_(None), LEFT_ITS_ID))


def are_of(person_id: int) -> sa.ColumnElement[bool]:
    """Return the condition of the faces that are a person's by their id."""
    return sa.and_(faces.c.person_id == person_id, ~LEFT_ITS_ID)


def are_denied(person_id: int | None) -> sa.ColumnElement[bool]:
    """Return the condition of the faces of which a hand has said that they are not a person's."""
    return sa.exists().where(same_face(face_denials, faces), face_denials.c.person_id == person_id)


def is_face(table: sa.Table, key: FaceKey) -> sa.ColumnElement[bool]:
    """Return the condition of the rows of a table that are of a face."""
    return sa.and_(table.c.image_id == key.image_id, table.c.face_index == key.index)


async def find_bearer(connection: AsyncConnection, name: str) -> int | None:
    """Return the id of whom a face is that has only this name."""
    found: int | None = await connection.scalar(sa.select(bearer(name)))
    return found


async def note_images(
    connection: AsyncConnection, table: sa.Table, which: sa.ColumnElement[bool]
) -> None:
    """Tell those who follow along of the images of some rows, however many these are."""
    found = sa.select(sa.literal(EventKind.IMAGE), table.c.image_id, database_now()).where(which)
    columns = ["kind", "subject_id", "created_at"]
    await connection.execute(sa.insert(events).from_select(columns, found.distinct()))
