"""What the database keeps about a person, read in parts."""

import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import fields
from typing import Any, Final

import sqlalchemy as sa

from services.common.face_rows import measured_in
from services.common.faces import DecidedBy
from services.common.person_rows import BY_HAND
from services.common.tables import (
    face_denials,
    face_encodings,
    faces,
    images,
    person_images,
    person_merges,
    persons,
    same_face,
)
from services.receiver.adapters.rows.named_faces import are_of, have_name_alone
from services.receiver.adapters.rows.on_database import OnDatabase
from services.receiver.domain.faces import FaceKey
from services.receiver.domain.merges import Merge
from services.receiver.domain.people import Somebody
from services.receiver.domain.personal_data import (
    KeptDenial,
    KeptFace,
    KeptKnown,
    KeptPerson,
    KeptPicture,
)

_PART: Final = 500
"""Rows, or pictures, that are read at once."""


class DatabasePersonalData(OnDatabase):
    """The port ``PersonalData`` on a database."""

    async def person(self, person: Somebody) -> KeptPerson:
        query = sa.select(persons).where(persons.c.id == person.id)
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).first()
        if row is None:
            return KeptPerson(None, person.name, hidden=False, created_at=None, face=None)
        return KeptPerson(
            row.id, row.name, row.hidden, row.created_at, _face(row.face_image_id, row.face_index)
        )

    async def known(self, person: Somebody) -> AsyncIterator[KeptKnown]:
        query = sa.select(person_images).where(person_images.c.person_id == person.id)
        async for row in self._parts(query, [person_images.c.id]):
            face = _face(row.image_id, row.face_index)
            yield KeptKnown(row.id, row.image_name, row.created_at, face)

    async def denials(self, person: Somebody) -> AsyncIterator[KeptDenial]:
        query = sa.select(face_denials).where(face_denials.c.person_id == person.id)
        async for row in self._parts(query, [face_denials.c.image_id, face_denials.c.face_index]):
            yield KeptDenial(row.image_id, row.face_index, row.created_at)

    async def merges(self, person: Somebody) -> AsyncIterator[Merge]:
        query = sa.select(person_merges.c.id, person_merges.c.name, person_merges.c.created_at)
        its = query.where(person_merges.c.person_id == person.id)
        async for row in self._parts(its, [person_merges.c.id]):
            yield Merge(row.id, row.name, row.created_at)

    async def pictures(self, person: Somebody) -> AsyncIterator[KeptPicture]:
        # Each is limited by itself, so that of neither more is read than a part.
        theirs = []
        if person.id is not None:
            theirs.append(are_of(person.id))
        if person.has_name_alone:
            theirs.append(have_name_alone(person.name))
        after = 0
        while ids := await self._images(theirs, after):
            for picture in await self._shown(ids, sa.or_(*theirs)):
                yield picture
            after = ids[-1]

    async def _images(self, theirs: Sequence[sa.ColumnElement[bool]], after: int) -> Sequence[int]:
        found = set[int]()
        async with self._database.reading() as connection:
            for condition in theirs:
                query = (
                    sa.select(faces.c.image_id)
                    .distinct()
                    .where(condition, faces.c.image_id > after)
                )
                found |= set(
                    await connection.scalars(query.order_by(faces.c.image_id).limit(_PART))
                )
        return sorted(found)[:_PART]

    async def _shown(
        self, image_ids: Sequence[int], theirs: sa.ColumnElement[bool]
    ) -> list[KeptPicture]:
        query = (
            sa.select(images, faces, BY_HAND.label("by_hand"), face_encodings.c.engine.label("by"))
            .join_from(images, faces)
            .outerjoin(face_encodings, same_face(face_encodings, faces))
            .where(images.c.id.in_(image_ids), theirs)
            .order_by(images.c.id, faces.c.face_index, face_encodings.c.engine)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return [
            _picture([list(its) for _, its in itertools.groupby(group, key=_index)])
            for _, group in itertools.groupby(rows, key=lambda row: row.id)
        ]

    async def _parts(
        self, query: sa.Select[Any], keys: Sequence[sa.Column[Any]]
    ) -> AsyncIterator[sa.Row[Any]]:
        """Yield the rows in the order of their keys, so many at a time."""
        key = sa.tuple_(*keys)
        part = query
        while True:
            async with self._database.reading() as connection:
                rows = (await connection.execute(part.order_by(*keys).limit(_PART))).all()
            for row in rows:
                yield row
            if len(rows) < _PART:
                return
            part = query.where(key > tuple(getattr(rows[-1], column.name) for column in keys))


def _face(image_id: int | None, index: int | None) -> FaceKey | None:
    return None if image_id is None or index is None else FaceKey(image_id, index)


def _index(row: Any) -> int:
    index: int = row.face_index
    return index


def _picture(by_face: Sequence[Sequence[Any]]) -> KeptPicture:
    """Return a picture of its rows, one for each encoding of a face."""
    image = by_face[0][0]
    return KeptPicture(
        **{field.name: getattr(image, field.name) for field in fields(KeptPicture)[:-1]},
        faces=tuple(
            KeptFace(
                index=face.face_index,
                **measured_in(face),
                drawn=face.drawn,
                decided_by=DecidedBy.HAND if face.by_hand else DecidedBy.MACHINE,
                distance=face.distance,
                likeness=face.likeness,
                encodings=tuple(row.by for row in its if row.by is not None),
            )
            for its in by_face
            for face in its[:1]
        ),
    )
