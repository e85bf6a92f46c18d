"""Faces that a person draws, or strikes out, in the database."""

from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import database_now
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.face_rows import machine_says
from services.common.faces import Box, DecidedBy, says_of
from services.common.image_states import Status
from services.common.person_rows import find_likely, note_change
from services.common.picture_rows import remove_soon
from services.common.tables import BOX, face_denials, face_encodings, faces, images
from services.common.thumbnails import face_thumbnails
from services.receiver.adapters.rows.conflicts import retry_on_conflict
from services.receiver.adapters.rows.named_faces import (
    UNDECIDED,
    by_hand,
    change_face,
    is_face,
    lock_face,
)
from services.receiver.adapters.rows.on_database import OnDatabase
from services.receiver.adapters.rows.people_changes import (
    add_person,
    changing_people,
    lock_somebody,
)
from services.receiver.domain.errors import ConflictError
from services.receiver.domain.faces import (
    EncodedFace,
    FaceKey,
    FaceOfResult,
    check_free,
    check_room,
)
from services.receiver.domain.people import Somebody


class DatabaseFaces(OnDatabase):
    """The port ``Faces`` on a database.

    Rows are locked in the order of people_changes.py.
    """

    @retry_on_conflict
    async def draw(
        self,
        image_id: int,
        processed_at: int | None,
        box: Box,
        face: EncodedFace,
        person: Somebody | None,
    ) -> int:
        async with changing_people(self._database) as connection:
            await _lock_result(connection, image_id, processed_at)
            there = await _places(connection, image_id)
            shown = {index: its for index, (its, struck_out) in there.items() if not struck_out}
            check_free(image_id, box, shown)
            check_room(image_id, len(there))
            key = FaceKey(image_id, max(there, default=-1) + 1)
            person_id = await lock_somebody(connection, person) if person else None
            says, likely = await _says(connection, key, face)
            await connection.execute(
                sa.insert(faces).values(
                    image_id=image_id, face_index=key.index, **asdict(box), drawn=True, **says
                )
            )
            await _keep_encoding(connection, key, face)
            if person is not None:
                if person_id is None:
                    person_id = await add_person(connection, person)
                await change_face(connection, key, by_hand(person_id, person.name))
                await note_change(connection, person_id, person.folder)
            else:
                await self._note(connection, key, likely)
        return key.index

    @retry_on_conflict
    async def strike_out(self, key: FaceKey) -> bool:
        async with changing_people(self._database) as connection:
            face = await lock_face(connection, key)
            if face is None:
                return False
            if face.by_hand:
                raise ConflictError(
                    f"face {key.index} of image {key.image_id} has just been named: try again"
                )
            (box, _) = (await _places(connection, key.image_id))[key.index]
            # By hand, as versions of before understand it, too: none of them names it.
            values = {"struck_out": True, "decided_by": DecidedBy.HAND}
            nobody = {"candidates": [], "ambiguous": False}
            await change_face(connection, key, UNDECIDED | values | nobody)
            await connection.execute(sa.delete(face_encodings).where(is_face(face_encodings, key)))
            thumbnails = face_thumbnails(key.image_id, [box])
            removals = [thumbnail.removal for thumbnail in thumbnails]
            await remove_soon(connection, removals)
            if face.person_id is not None:
                # Another face of the picture may be theirs.
                await note_change(connection, face.person_id)
        return True

    @retry_on_conflict
    async def restore(self, face: FaceOfResult, seen: EncodedFace) -> None:
        key = FaceKey(face.image_id, face.index)
        async with changing_people(self._database) as connection:
            await _lock_result(connection, key.image_id, face.processed_at)
            there = await _places(connection, key.image_id)
            box, _ = there.pop(key.index)
            shown = {index: its for index, (its, is_out) in there.items() if not is_out}
            check_free(key.image_id, box, shown)
            says, likely = await _says(connection, key, seen)
            its = sa.and_(is_face(faces, key), faces.c.struck_out, ~faces.c.forgotten)
            restored = await connection.execute(
                sa.update(faces).where(its).values(struck_out=False, **says)
            )
            if restored.rowcount != 1:
                raise ConflictError(f"face {key.index} of image {key.image_id} is not struck out")
            await _keep_encoding(connection, key, seen)
            await self._note(connection, key, likely)

    async def _note(self, connection: AsyncConnection, key: FaceKey, likely: int | None) -> None:
        await note_events(connection, database_now(), EventKind.IMAGE, [key.image_id])
        if likely is not None:
            # Decided with the picture's other faces, of which one may be named so.
            await note_change(connection, likely)


async def _lock_result(
    connection: AsyncConnection, image_id: int, processed_at: int | None
) -> None:
    """Lock an image that still has the result of that time, or raise ``ConflictError``.

    Whoever stores another result locks the image, too.
    """
    row = (
        await connection.execute(
            sa.select(images.c.status, images.c.processed_at)
            .where(images.c.id == image_id)
            .with_for_update()
        )
    ).one_or_none()
    if row is None or tuple(row) != (Status.PROCESSED, processed_at):
        raise ConflictError(
            f"image {image_id} has been looked at again, or is gone: look at it anew"
        )


async def _places(connection: AsyncConnection, image_id: int) -> dict[int, tuple[Box, bool]]:
    """Return the boxes of an image's faces by number, and whether they are struck out.

    The image is locked, so none comes or goes.
    """
    rows = await connection.execute(
        sa.select(faces.c.face_index, faces.c.struck_out, *BOX).where(faces.c.image_id == image_id)
    )
    return {index: (Box(*box), bool(struck_out)) for index, struck_out, *box in rows}


async def _says(
    connection: AsyncConnection, key: FaceKey, face: EncodedFace
) -> tuple[dict[str, Any], int | None]:
    """Return what a face's row says of who it is, and the id of who it may be first of all.

    That is nobody of whom a person has said that it is not, and nobody who is another face of the
    picture.
    """
    its = face.seen
    whose = await find_likely(connection, its.candidates, lock=True)
    denied = sa.select(face_denials.c.person_id).where(is_face(face_denials, key))
    others = sa.select(faces.c.person_id).where(
        faces.c.image_id == key.image_id,
        faces.c.face_index != key.index,
        faces.c.person_id.is_not(None),
    )
    taken = set(await connection.scalars(denied.union(others)))
    left = [candidate for candidate in its.candidates if whose[candidate][0] not in taken]
    named = bool(its.named) and len(left) == len(its.candidates)
    ambiguous = its.ambiguous if named else bool(left)
    says = says_of(left, whose, face.calibration, named=named, ambiguous=ambiguous)
    return machine_says(its, says), whose[its.candidates[0]][0] if its.candidates else None


async def _keep_encoding(connection: AsyncConnection, key: FaceKey, face: EncodedFace) -> None:
    # One that was struck out may have got one since: by an image_processor of before.
    await connection.execute(sa.delete(face_encodings).where(is_face(face_encodings, key)))
    if face.seen.encoding:
        await connection.execute(
            sa.insert(face_encodings).values(
                image_id=key.image_id,
                face_index=key.index,
                engine=face.engine,
                encoding=face.seen.encoding,
            )
        )
