"""Stored faces without an encoding, and how far they are, in the database."""

import secrets
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.claims import LEASE_MS
from services.common.clock import DatabaseClock
from services.common.database import Database
from services.common.due_rows import is_due
from services.common.errors import ClaimLostError
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.face_rows import box_in
from services.common.faces import Box
from services.common.image_states import Status
from services.common.person_rows import FOLDER
from services.common.tables import (
    BOX,
    encoding_work,
    face_encodings,
    faces,
    images,
    people_work,
    persons,
    same_face,
)
from services.image_processor.domain import (
    LOOK_AGAIN_MS,
    LOOK_SELDOM_MS,
    PEOPLE_AT_ONCE,
    REMOVE_AFTER_MS,
    Encoded,
    EncodingProgress,
    FacesToEncode,
)


class DatabaseEncodingRows:
    """The port ``EncodingRows`` on a database; each one claims for itself."""

    def __init__(self, database: Database, clock: DatabaseClock) -> None:
        self._database = database
        self._clock = clock
        self._token = secrets.token_hex(16)

    async def read(self) -> EncodingProgress:
        now = self._clock()
        work = encoding_work.c
        waiting = sa.exists().where(images.c.status.in_([Status.PENDING, Status.PROCESSING]))
        query = sa.select(
            encoding_work,
            (work.next_look_at <= now).label("look_due"),
            (work.remove_at <= now).label("removal_due"),
            sa.or_(work.stopped, waiting).label("halted"),
            sa.select(sa.func.max(images.c.id)).scalar_subquery().label("last_image_id"),
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).one()
        return EncodingProgress(
            engine=row.engine,
            halted=row.halted,
            after=row.after_image_id,
            images_left=row.images_left or 0,
            to_count=row.images_left is None or bool(row.look_due),
            to_walk=row.images_left is not None and row.next_look_at is None,
            removal_due=bool(row.removal_due),
            to_decide=row.after_person_id is not None,
            last_image_id=row.last_image_id or 0,
        )

    async def claim(self) -> bool:
        now = self._clock()
        owner = encoding_work.c.claim_token
        free = sa.or_(owner == self._token, owner.is_(None), is_due(encoding_work, now))
        ours = sa.update(encoding_work).values(claim_token=self._token, due_at=now + LEASE_MS)
        return await self._write(ours.where(free)) == 1

    async def release(self) -> None:
        ours = encoding_work.c.claim_token == self._token
        await self._write(sa.update(encoding_work).where(ours).values(claim_token=None))

    async def begin(self, engine: str) -> None:
        later = self._clock() + REMOVE_AFTER_MS
        await self._begin_walk(None, engine=engine, after_person_id=None, remove_at=later)

    async def keep_others(self) -> None:
        later = self._clock() + REMOVE_AFTER_MS
        await self._write(sa.update(encoding_work).values(remove_at=later))

    async def count(self, engine: str, after: int, until: int) -> int:
        await self._remove_of_struck_out(after, until)
        number = sa.func.count(faces.c.image_id.distinct())
        query = _lacking(engine, number).where(*_within(faces, after, until))
        async with self._database.reading() as connection:
            return await connection.scalar(query) or 0

    async def _remove_of_struck_out(self, after: int, until: int) -> None:
        """Remove what a version of before made of faces that were struck out."""
        encoding = face_encodings.c
        same = same_face(face_encodings, faces)
        query = (
            sa.select(encoding.image_id, encoding.face_index)
            .join_from(faces, face_encodings, same)
            .where(*_within(faces, after, until), faces.c.struck_out)
        )
        async with self._database.reading() as connection:
            keys = [tuple(row) for row in await connection.execute(query)]
        for key in keys:
            # Looked at again: it may have been restored.
            still = sa.exists().where(same, faces.c.struck_out)
            its = sa.tuple_(encoding.image_id, encoding.face_index) == key
            await self._write(sa.delete(face_encodings).where(its, still))

    async def begin_walk(self, images: int) -> None:
        if images:
            await self._begin_walk(images)
        else:
            again = self._clock() + LOOK_AGAIN_MS
            await self._change(after_image_id=0, images_left=0, next_look_at=again)

    async def next(self, engine: str, after: int, until: int, most: int) -> Sequence[int]:
        query = _lacking(engine, faces.c.image_id).where(*_within(faces, after, until))
        first = query.distinct().order_by(faces.c.image_id).limit(most)
        async with self._database.reading() as connection:
            return list(await connection.scalars(first))

    async def faces(self, image_id: int, engine: str) -> FacesToEncode | None:
        query = sa.select(
            images.c.path, images.c.content_digest, images.c.object_tag, images.c.processed_at
        ).where(images.c.id == image_id, images.c.status == Status.PROCESSED)
        async with self._database.reading() as connection:
            image = (await connection.execute(query)).one_or_none()
            found = await _faces(connection, image_id, engine)
        if image is None or not found:
            return None
        uploaded = image.content_digest is not None
        return FacesToEncode(
            image_id, image.path, uploaded, image.object_tag, image.processed_at, found
        )

    async def store(self, faces: FacesToEncode, encoded: Encoded) -> int | None:
        image_id, engine = faces.image_id, encoded.engine
        same = sa.select(images.c.id).where(
            images.c.id == image_id,
            images.c.status == Status.PROCESSED,
            images.c.processed_at == faces.processed_at,
        )
        async with self._database.transaction() as connection:
            if await connection.scalar(same.with_for_update()) is None:
                return None
            # Somebody may have drawn faces, or struck them out, of the same result.
            found = await _faces(connection, image_id, engine, lock=True)
            answered = zip(faces.boxes.items(), encoded.encodings, strict=True)
            rows = [
                {"image_id": image_id, "face_index": index, "engine": engine, "encoding": encoding}
                for (index, box), encoding in answered
                if encoding and found.get(index) == box
            ]
            if rows:
                await connection.execute(sa.insert(face_encodings), rows)
                await note_events(connection, self._clock(), EventKind.ENCODED, [image_id])
            await self._go_on(connection, image_id, encoded=len(rows))
        return len(rows)

    async def skip(self, image_id: int) -> None:
        async with self._database.transaction() as connection:
            await self._go_on(connection, image_id, skipped=1)

    async def go_to(self, image_id: int) -> None:
        await self._change(after_image_id=image_id)

    async def end_walk(self) -> None:
        work = encoding_work.c
        only_skipped = sa.and_(work.faces_encoded == 0, work.images_skipped > 0)
        pause = sa.case((only_skipped, LOOK_SELDOM_MS), else_=LOOK_AGAIN_MS)
        again = self._clock() + pause
        async with self._database.transaction() as connection:
            encoded = await connection.scalar(sa.select(work.faces_encoded))
            await self._note(connection, after_image_id=0, images_left=0, next_look_at=again)
            if encoded:
                await self._note(connection, after_person_id=0)

    async def decide_again(self) -> bool:
        """Have the next people looked for; False, and nothing is changed, while others are.

        They are by the service people, as after a change of each. Whose change is due, at work or
        half done has to end first: it may be past what was encoded.
        """
        changes = people_work.c
        others = sa.select(changes.person_id).where(
            sa.or_(
                is_due(people_work, self._clock()),
                changes.claim_token.is_not(None),
                changes.after_image_id > 0,
            )
        )
        async with self._database.reading() as connection:
            if (await connection.execute(others.limit(1))).first():
                return False
        columns = ["person_id", "folder", "removed", "due_at", "after_image_id", "passes_left"]
        changed = sa.false(), self._clock(), sa.literal(0), sa.literal(1)
        after = sa.select(encoding_work.c.after_person_id).scalar_subquery()
        following = (
            sa.select(persons.c.id)
            .where(persons.c.id > after)
            .order_by(persons.c.id)
            .limit(PEOPLE_AT_ONCE)
        )
        async with self._database.transaction() as connection:
            await self._note(connection)
            some = list(await connection.scalars(following))
            work = sa.select(persons.c.id, FOLDER, *changed).where(persons.c.id.in_(some))
            await connection.execute(
                sa.insert(people_work)
                .from_select(columns, work)
                .prefix_with("OR IGNORE", dialect="sqlite")
                .prefix_with("IGNORE", dialect="mysql")
            )
            await self._note(connection, after_person_id=max(some, default=None))
        return True

    async def remove_others(self, engine: str, after: int, until: int) -> int:
        removing = sa.delete(face_encodings).where(
            *_within(face_encodings, after, until), face_encodings.c.engine != engine
        )
        async with self._database.transaction() as connection:
            await self._note(connection)
            return (await connection.execute(removing)).rowcount

    async def end_removal(self) -> None:
        await self._change(remove_at=None)

    async def _begin_walk(self, images_left: int | None, **values: Any) -> None:
        nothing_done = {"after_image_id": 0, "faces_encoded": 0, "images_skipped": 0}
        await self._change(**nothing_done, images_left=images_left, next_look_at=None, **values)

    async def _change(self, **values: Any) -> None:
        async with self._database.transaction() as connection:
            await self._note(connection, **values)

    async def _note(self, connection: AsyncConnection, **values: Any) -> None:
        changing = (
            sa.update(encoding_work)
            .where(encoding_work.c.claim_token == self._token)
            .values(claim_token=self._token, **values)
        )
        if (await connection.execute(changing)).rowcount != 1:
            raise ClaimLostError

    async def _write(self, statement: sa.Update | sa.Delete) -> int:
        async with self._database.transaction() as connection:
            return (await connection.execute(statement)).rowcount

    async def _go_on(
        self, connection: AsyncConnection, image_id: int, *, encoded: int = 0, skipped: int = 0
    ) -> None:
        work = encoding_work.c
        left = work.images_left
        await self._note(
            connection,
            after_image_id=image_id,
            images_left=sa.case((left > 0, left - 1), else_=0),
            faces_encoded=work.faces_encoded + encoded,
            images_skipped=work.images_skipped + skipped,
        )


def _within(table: sa.Table, after: int, until: int) -> tuple[sa.ColumnElement[bool], ...]:
    return table.c.image_id > after, table.c.image_id <= until


def _lacking(engine: str, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Return the query for faces without an encoding of the engine; who is none gets none."""
    same = sa.and_(same_face(face_encodings, faces), face_encodings.c.engine == engine)
    return (
        sa.select(*columns)
        .select_from(faces.outerjoin(face_encodings, same))
        .where(face_encodings.c.image_id.is_(None), ~faces.c.struck_out)
    )


async def _faces(
    connection: AsyncConnection, image_id: int, engine: str, *, lock: bool = False
) -> dict[int, Box]:
    """Return the boxes of an image's faces without an encoding, by their numbers."""
    query = (
        _lacking(engine, faces.c.face_index, *BOX)
        .where(faces.c.image_id == image_id)
        .order_by(faces.c.face_index)
    )
    if lock:
        query = query.with_for_update()
    return {row.face_index: box_in(row) for row in await connection.execute(query)}
