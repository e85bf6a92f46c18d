"""What looking for a face needs: face_recog, people, and rows of faces."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from services.common.database import Database
from services.common.errors import RecogniserUnavailableError
from services.common.facerecog.client import RecogniserClient
from services.common.facerecog.stored_faces import StoredFacesClient
from services.common.names import known_name
from services.common.people import SHOWN_ID, WHOSE, box_in
from services.common.strangers import PairsOfStrangers
from services.common.tables import BOX, face_encodings, faces, persons, same_face
from services.receiver.adapters.recogniser import faces_of
from services.receiver.domain.faces import FaceKey
from services.receiver.service.searching import FaceRow, Looked


class GrpcLooker:
    """The port ``Looker`` on face_recog."""

    def __init__(self, client: RecogniserClient) -> None:
        self._client = client

    async def look(self, content: bytes) -> Looked:
        """Return a picture's faces, or raise ``InvalidError`` when it cannot be read."""
        answer = await self._client.identify(content, max_candidates=1)
        return Looked(answer.engine, faces_of(answer))

    async def strangers(self) -> tuple[str, PairsOfStrangers]:
        """Return the engine in use, and how alike strangers are to it."""
        found = await self._client.strangers()
        if found is None:
            raise RecogniserUnavailableError("face_recog does not say how alike strangers are")
        return found


class GrpcStoredFaces:
    """The port ``StoredFaces`` on people."""

    def __init__(self, client: StoredFacesClient) -> None:
        self._client = client

    async def find(
        self, engine: str, encoding: bytes, limit: int
    ) -> Sequence[tuple[FaceKey, float]]:
        """Return so many faces at most, those nearest to an encoding, with their distances."""
        found = await self._client.find(engine, encoding, limit)
        return [(FaceKey(one.image_id, one.face_index), one.distance) for one in found]


class DatabaseFaceRows:
    """The port ``FaceRows`` on a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def encoding(self, key: FaceKey, engine: str) -> tuple[bool, bytes | None]:
        """Tell whether there is such a face, and return its encoding by an engine."""
        query = (
            sa.select(face_encodings.c.encoding)
            .select_from(faces)
            .outerjoin(
                face_encodings,
                sa.and_(
                    same_face(face_encodings, faces),
                    face_encodings.c.engine == engine,
                ),
            )
            .where(
                faces.c.image_id == key.image_id,
                faces.c.face_index == key.index,
                ~faces.c.struck_out,
            )
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).first()
        return row is not None, row.encoding if row else None

    async def faces(self, keys: Sequence[FaceKey]) -> Mapping[FaceKey, FaceRow]:
        """Return those that are there, and that nobody has struck out."""
        query = (
            sa.select(
                *(faces.c[name] for name in ("image_id", "face_index")),
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


def _face(row: Any) -> FaceRow:
    name = known_name(row.whose)
    return FaceRow(box_in(row), name, None if name is None else row.whose_id)
