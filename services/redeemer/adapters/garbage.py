"""What the database says of objects to be removed: notes, and rows that name an object."""

import secrets
from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.claims import HOLD_MS
from services.common.clock import DatabaseClock
from services.common.database import Database
from services.common.due_rows import is_due
from services.common.face_rows import box_in
from services.common.object_keys import KNOWN_PEOPLE, PICTURES
from services.common.tables import BOX, backups, faces, garbage, images, person_images
from services.common.thumbnail_keys import OF_FACES, OF_IMAGES, OF_KNOWN, FacePlace, place_of
from services.redeemer.domain import BATCH, REMOVAL_MS, REMOVE_AGAIN_MS, DueRemoval


class DatabaseDueGarbage:
    """Takes notes of objects so that no other replica takes them too."""

    def __init__(self, database: Database, clock: DatabaseClock) -> None:
        self._database = database
        self._clock = clock

    async def take(self) -> Sequence[DueRemoval]:
        now = self._clock()
        token = secrets.token_hex(16)
        choosing = (
            sa.select(garbage.c.object_key, garbage.c.object_tag)
            .where(is_due(garbage, now, 2 * REMOVE_AGAIN_MS))
            .order_by(garbage.c.due_at)
            .limit(BATCH)
            .with_for_update(skip_locked=True)
        )
        async with self._database.transaction() as connection:
            found = (await connection.execute(choosing)).all()
            # Looked for after the notes: what was deleted only since a backup holds all objects
            # has no note among those that were chosen before.
            if found and await connection.scalar(_held(now)):
                return []
            keys = [row.object_key for row in found]
            named = await _named(connection, keys)
            if named:
                await connection.execute(
                    sa.delete(garbage).where(garbage.c.object_key.in_(sorted(named)))
                )
            await connection.execute(
                sa.update(garbage)
                .where(garbage.c.object_key.in_([key for key in keys if key not in named]))
                .values(claim_token=token, due_at=now + REMOVAL_MS)
            )
        return [
            DueRemoval(row.object_key, row.object_tag, token)
            for row in found
            if row.object_key not in named
        ]

    async def removed(self, removals: Sequence[DueRemoval]) -> None:
        now = self._clock()
        ours = sa.and_(
            garbage.c.object_key.in_([removal.key for removal in removals]),
            garbage.c.claim_token.in_({removal.token for removal in removals}),
        )
        done = sa.or_(garbage.c.object_tag.is_not(None), garbage.c.removed_at.is_not(None))
        async with self._database.transaction() as connection:
            await connection.execute(sa.delete(garbage).where(ours, done))
            await connection.execute(
                sa.update(garbage)
                .where(ours)
                .values(claim_token=None, removed_at=now, due_at=now + REMOVE_AGAIN_MS)
            )

    async def gone(self, thumbnails: Mapping[str, int]) -> Sequence[str]:
        of_faces = {key for key in thumbnails if key.startswith(OF_FACES)}
        async with self._database.reading() as connection:
            gone = sorted(of_faces - await _of_faces_there(connection, of_faces))
        for prefix, column in ((OF_IMAGES, images.c.id), (OF_KNOWN, person_images.c.id)):
            of_these = {
                key: picture_id for key, picture_id in thumbnails.items() if key.startswith(prefix)
            }
            query = sa.select(column).where(column.in_(sorted(set(of_these.values()))))
            async with self._database.reading() as connection:
                there = set(await connection.scalars(query))
            gone += [key for key, picture_id in of_these.items() if picture_id not in there]
        return gone


def _held(now: sa.ColumnElement[int]) -> sa.Select[str]:
    """Return the query for a backup that holds all objects."""
    held = backups.c.held_until.between(now, now + HOLD_MS)
    return sa.select(backups.c.name).where(held).limit(1)


async def _named(connection: AsyncConnection, keys: Iterable[str]) -> set[str]:
    """Return those of the keys that a row names."""
    named: set[str] = set()
    for prefix, column in ((PICTURES, images.c.path), (KNOWN_PEOPLE, person_images.c.image_name)):
        names = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
        if names:
            found = await connection.scalars(sa.select(column).where(column.in_(names)))
            named |= {prefix + name for name in found}
    # A face may be where another one was: its picture was looked at again, or it was restored.
    return named | await _of_faces_there(connection, keys)


async def _of_faces_there(connection: AsyncConnection, keys: Iterable[str]) -> set[str]:
    """Return those of the keys that are of a face which is there."""
    places = {key: place for key in keys if (place := place_of(key))}
    if not places:
        return set()
    query = sa.select(faces.c.image_id, *BOX).where(
        faces.c.image_id.in_(sorted({place.image_id for place in places.values()})),
        ~faces.c.struck_out,
    )
    there = {FacePlace(row.image_id, box_in(row)) for row in await connection.execute(query)}
    return {key for key, place in places.items() if place in there}
