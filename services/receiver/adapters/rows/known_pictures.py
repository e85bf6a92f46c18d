"""Known pictures in the database, and what is said by hand of whose a face is."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import database_now, now_ms
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.object_keys import KNOWN_PEOPLE
from services.common.person_rows import BEING_FORGOTTEN, note_change, whose_pictures
from services.common.picture_rows import forget_pictures
from services.common.tables import face_denials, faces, person_images, persons, same_face
from services.receiver.adapters.rows.conflicts import retry_on_conflict
from services.receiver.adapters.rows.garbage import all_expected, settle
from services.receiver.adapters.rows.named_faces import (
    UNDECIDED,
    LockedFace,
    by_hand,
    change_face,
    is_face,
    lock_face,
)
from services.receiver.adapters.rows.on_database import OnDatabase
from services.receiver.adapters.rows.people_changes import (
    add_person,
    changing_people,
    find_somebody,
    lock_somebody,
)
from services.receiver.domain.errors import ConflictError
from services.receiver.domain.faces import FaceKey, FaceOfResult
from services.receiver.domain.people import KnownPicture, NewKnownPicture, Somebody


class DatabaseKnownPictures(OnDatabase):
    """The port ``KnownPictures`` on a database."""

    async def find(self, content_digest: str) -> KnownPicture | None:
        async with self._database.reading() as connection:
            return await _find(connection, content_digest)

    async def picture(self, picture_id: int) -> KnownPicture | None:
        async with self._database.reading() as connection:
            return await _first(connection, person_images.c.id == picture_id)

    @retry_on_conflict
    async def add(self, picture: NewKnownPicture, face: FaceOfResult | None) -> KnownPicture | None:
        key = KNOWN_PEOPLE + picture.image_name
        async with changing_people(self._database) as connection:
            if not await all_expected(connection, [key]):
                return None
            shown = await _shown(connection, face) if face else None
            person_id = await lock_somebody(connection, picture.person)
            known = await _find(connection, picture.content_digest)
            no_longer_theirs: set[int] = set()
            if known and known.person_id != person_id:
                if not (shown and known.is_cut_from(shown.key, shown.named)):
                    await settle(connection, named=[], unnamed=[key])
                    return known
                no_longer_theirs.add(known.person_id)
                await forget_pictures(connection, person_images.c.id == known.id)
                known = None
            if person_id is None:
                person_id = await add_person(connection, picture.person)
            if known:
                await settle(connection, named=[], unnamed=[key])
            else:
                known = await self._insert(connection, person_id, picture)
                await settle(connection, named=[key], unnamed=[])
            if shown:
                no_longer_theirs |= await self._name_face(connection, shown, known)
            for other_id in sorted(no_longer_theirs):
                await note_change(connection, other_id, removed=True)
            await note_change(connection, person_id, picture.person.folder)
        return known

    async def _insert(
        self, connection: AsyncConnection, person_id: int, picture: NewKnownPicture
    ) -> KnownPicture:
        now = now_ms()
        inserted: sa.CursorResult[tuple[()]] = await connection.execute(
            sa.insert(person_images).values(
                person_id=person_id, image_name=picture.image_name, created_at=now
            )
        )
        picture_id = int(inserted.lastrowid)
        return KnownPicture(picture_id, person_id, picture.person.name, picture.image_name, now)

    async def _name_face(
        self, connection: AsyncConnection, face: LockedFace, known: KnownPicture
    ) -> set[int]:
        """Name a face by hand; return the person whom another hand had named, if any."""
        named_before = {face.named} - {None, known.person_id}
        if named_before:
            await forget_pictures(connection, _cut_from(face))
        # Of two faces of one content, the picture is the first one's as long as that is there.
        there = sa.exists().where(same_face(faces, person_images))
        await connection.execute(
            sa.update(person_images)
            .where(person_images.c.id == known.id, ~there)
            .values(image_id=face.key.image_id, face_index=face.key.index)
        )
        await connection.execute(sa.delete(face_denials).where(_denial(face.key, known.person_id)))
        named = by_hand(known.person_id, known.person)
        await change_face(connection, face.key, named)
        return {person_id for person_id in named_before if person_id is not None}

    @retry_on_conflict
    async def replace_object(
        self, known: KnownPicture, picture: NewKnownPicture
    ) -> KnownPicture | None:
        key = KNOWN_PEOPLE + picture.image_name
        async with changing_people(self._database) as connection:
            if not await all_expected(connection, [key]):
                return None
            result = await connection.execute(
                sa.update(person_images)
                .where(
                    person_images.c.id == known.id, person_images.c.image_name == known.image_name
                )
                .values(image_name=picture.image_name)
            )
            if result.rowcount != 1:
                return known
            await settle(connection, named=[key], unnamed=[])
        return replace(known, image_name=picture.image_name)

    @retry_on_conflict
    async def delete_picture(self, picture_id: int) -> None:
        its = person_images.c.id == picture_id
        async with changing_people(self._database) as connection:
            known = await _first(connection, its)
            if known is None:
                return
            face = await lock_face(connection, known.face) if known.face else None
            await forget_pictures(connection, its)
            if face and face.by_hand and face.person_id == known.person_id:
                other = sa.select(person_images.c.id).where(_cut_from(face)).limit(1)
                if await connection.scalar(other) is None:
                    await change_face(connection, face.key, UNDECIDED)
            await note_change(connection, known.person_id, removed=True)

    @retry_on_conflict
    async def unname(self, key: FaceKey, digests: Sequence[str]) -> bool:
        async with changing_people(self._database) as connection:
            face = await lock_face(connection, key)
            if face is None:
                return False
            if face.by_hand:
                person_id = face.person_id
                if person_id is not None:
                    await self._forget_cut(connection, face, person_id, digests)
                elif face.person is not None:
                    # Work is somebody's, and without it nobody decides on the face.
                    person = await find_somebody(connection, face.person)
                    person_id = await add_person(connection, person)
                await change_face(connection, key, UNDECIDED)
                if person_id is not None:
                    await note_change(connection, person_id, removed=True)
        return True

    @retry_on_conflict
    async def deny(
        self,
        key: FaceKey,
        person: Somebody,
        *,
        is_known: bool,
        digests: Sequence[str] | None = None,
    ) -> bool:
        async with changing_people(self._database) as connection:
            face = await lock_face(connection, key)
            if face is None:
                return False
            person_id = await lock_somebody(connection, person)
            is_theirs = face.person_id == person_id and face.person is not None
            if person_id is None:
                is_theirs = face.person_id is None and face.person == person.name
                guesses = {candidate["person"] for candidate in face.candidates}
                if not (is_known or is_theirs or person.name in guesses):
                    return False
                person_id = await add_person(connection, person)
            taken_back = is_theirs and face.by_hand
            if taken_back:
                if digests is None:
                    raise ConflictError(
                        f"face {key.index} of image {key.image_id} was named {person.name!r} by"
                        " hand: take that name back first"
                    )
                await self._forget_cut(connection, face, person_id, digests)
            # What a group's answer has said of it is said of this face alone from now on.
            said = sa.update(face_denials).where(_denial(key, person_id))
            said_again = await connection.execute(said.values(created_at=database_now()))
            if not said_again.rowcount:
                await connection.execute(
                    sa.insert(face_denials).values(
                        image_id=key.image_id,
                        face_index=key.index,
                        person_id=person_id,
                        created_at=database_now(),
                    )
                )
            whose = await whose_pictures(
                connection, [candidate["image_name"] for candidate in face.candidates]
            )
            others = [
                candidate
                for candidate in face.candidates
                if (whose.get(candidate["image_name"]) or candidate["person"])
                not in (person_id, person.name)
            ]
            values: dict[str, Any] = {"candidates": others}
            if is_theirs:
                values = {**UNDECIDED, **values, "ambiguous": bool(others)}
            await change_face(connection, key, values)
            await note_change(connection, person_id, person.folder, removed=taken_back)
        return True

    @retry_on_conflict
    async def allow(self, key: FaceKey, person: Somebody) -> bool:
        async with changing_people(self._database) as connection:
            if await lock_face(connection, key) is None:
                return False
            person_id = await lock_somebody(connection, person)
            if person_id is not None:
                gone = await connection.execute(
                    sa.delete(face_denials).where(_denial(key, person_id))
                )
                if gone.rowcount:
                    await note_events(connection, database_now(), EventKind.IMAGE, [key.image_id])
                    await note_change(connection, person_id)
        return True

    async def _forget_cut(
        self, connection: AsyncConnection, face: LockedFace, person_id: int, digests: Sequence[str]
    ) -> None:
        """Remove known pictures of whom a hand has said that a face is, that were cut out of it."""
        shown = sa.or_(
            sa.false(), *(person_images.c.image_name.like(f"%/{digest}.%") for digest in digests)
        )
        unnoted = sa.and_(
            person_images.c.person_id == person_id, person_images.c.face_index.is_(None), shown
        )
        await forget_pictures(connection, sa.or_(_cut_from(face), unnoted))


PICTURE_COLUMNS = (
    person_images.c.id,
    person_images.c.image_name,
    person_images.c.created_at,
    person_images.c.image_id,
    person_images.c.face_index,
)


def known_picture(row: Any) -> KnownPicture:
    """Return the known picture of a row of ``PICTURE_COLUMNS``, ``person_id`` and ``person``."""
    face = None if row.face_index is None else FaceKey(row.image_id, row.face_index)
    return KnownPicture(row.id, row.person_id, row.person, row.image_name, row.created_at, face)


async def _shown(connection: AsyncConnection, face: FaceOfResult) -> LockedFace | None:
    """Return a face, unless the image has been looked at again: then its faces are others."""
    found = await lock_face(connection, FaceKey(face.image_id, face.index))
    return found if found and found.processed_at == face.processed_at else None


def _cut_from(face: LockedFace) -> sa.ColumnElement[bool]:
    """Return the condition of the known pictures of its person that were cut out of a face."""
    return sa.and_(is_face(person_images, face.key), person_images.c.person_id == face.person_id)


def _denial(key: FaceKey, person_id: int) -> sa.ColumnElement[bool]:
    return sa.and_(is_face(face_denials, key), face_denials.c.person_id == person_id)


async def _find(connection: AsyncConnection, content_digest: str) -> KnownPicture | None:
    # Names end in the digest, which no index leads to; a scan of the names is a few milliseconds.
    return await _first(connection, person_images.c.image_name.like(f"%/{content_digest}.%"))


async def _first(connection: AsyncConnection, which: sa.ColumnElement[bool]) -> KnownPicture | None:
    query = (
        sa.select(persons.c.id.label("person_id"), persons.c.name.label("person"), *PICTURE_COLUMNS)
        .join_from(person_images, persons)
        .where(which, ~BEING_FORGOTTEN)
        .limit(1)
    )
    row = (await connection.execute(query)).first()
    return known_picture(row) if row else None
