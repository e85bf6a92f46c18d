"""Faces that are looked for, or found, in the database."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from services.common.face_rows import box_in
from services.common.person_names import known_name
from services.common.person_rows import SHOWN_ID, WHOSE
from services.common.tables import BOX, face_encodings, faces, persons, same_face
from services.receiver.adapters.rows.named_faces import is_face
from services.receiver.adapters.rows.on_database import OnDatabase
from services.receiver.domain.faces import FaceKey
from services.receiver.domain.search import FaceNow


class DatabaseSearchableFaces(OnDatabase):
    """The port ``SearchableFaces`` on a database."""

    async def encoding(self, key: FaceKey, engine: str) -> tuple[bool, bytes | None]:
        query = (
            sa.select(face_encodings.c.encoding)
            .select_from(faces)
            .outerjoin(
                face_encodings,
                sa.and_(same_face(face_encodings, faces), face_encodings.c.engine == engine),
            )
            .where(is_face(faces, key), ~faces.c.struck_out)
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).first()
        return row is not None, row.encoding if row else None

    async def faces(self, keys: Sequence[FaceKey]) -> Mapping[FaceKey, FaceNow]:
        query = (
            sa.select(
                faces.c.image_id,
                faces.c.face_index,
                *BOX,
                WHOSE.label("whose"),
                SHOWN_ID.label("whose_id"),
            )
            .outerjoin(persons, persons.c.id == faces.c.person_id)
            .where(faces.c.image_id.in_({key.image_id for key in keys}), ~faces.c.struck_out)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return {FaceKey(row.image_id, row.face_index): _face(row) for row in rows}


def _face(row: Any) -> FaceNow:
    name = known_name(row.whose)
    return FaceNow(box_in(row), name, None if name is None else row.whose_id)
