"""The images and the notes of objects in the database."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import DatabaseClock
from services.common.database import Database
from services.common.event_rows import note_events
from services.common.events import KEPT_MS, EventKind
from services.common.images import (
    FINAL,
    KNOWN_PEOPLE,
    NUDGE_MS,
    PICTURES,
    RING_AFTER_MS,
    Rules,
    Status,
)
from services.common.people import box_in
from services.common.tables import (
    BOX,
    events,
    faces,
    garbage,
    images,
    is_due,
    longest_wait,
    person_images,
)
from services.common.thumbnails import OF_FACES, OF_IMAGES, OF_KNOWN, FacePlace, place_of
from services.redeemer.collecting import Removal
from services.redeemer.domain import (
    BATCH,
    EVENTS_BATCH,
    REMOVAL_MS,
    REMOVE_AGAIN_MS,
    Census,
    unfinished,
)


class DatabaseRows:
    """Takes rows so that no other replica takes them too.

    A row is chosen and changed in one transaction, and rows that another replica has chosen are
    skipped. On SQLite transactions take turns anyway. What was rung for is due again after
    ``ring_again_ms``.
    """

    def __init__(
        self,
        database: Database,
        clock: DatabaseClock,
        *,
        rules: Rules = Rules(),  # noqa: B008, it is frozen
        ring_again_ms: int = RING_AFTER_MS,
    ) -> None:
        self._database = database
        self._clock = clock
        self._rules = rules
        self._ring_again_ms = ring_again_ms
        self._latest_due_ms = max(rules.latest_due_ms, ring_again_ms + NUDGE_MS)

    async def take_failed(self) -> Sequence[int]:
        """Make failed images that are due pending."""
        return await self._take(Status.FAILED, {"status": Status.PENDING})

    async def take_abandoned(self) -> Sequence[int]:
        """Make images whose lease is over pending, if they have an attempt left."""
        return await self._take(
            Status.PROCESSING,
            {"status": Status.PENDING, "claim_token": None},
            images.c.attempt < self._rules.max_attempts,
        )

    async def bury_abandoned(self) -> Sequence[int]:
        """Make images whose lease is over dead, if they have no attempt left."""
        return await self._take(
            Status.PROCESSING,
            {
                "status": Status.DEAD,
                "claim_token": None,
                "due_at": None,
                "error": unfinished(self._rules.max_attempts),
            },
            images.c.attempt >= self._rules.max_attempts,
        )

    async def take_waiting(self) -> Sequence[int]:
        """Move the due time of pending images that are due to the next interval."""
        return await self._take(Status.PENDING, {})

    async def forget_events(self) -> int:
        """Remove events that are old; return how many."""
        first = sa.select(events).order_by(events.c.id).limit(EVENTS_BATCH).subquery()
        now = self._clock()
        # Those of a time to come were noted before the clock was set back.
        recent = first.c.created_at.between(now - KEPT_MS, now + KEPT_MS)
        async with self._database.transaction() as connection:
            ids = (await connection.scalars(sa.select(first.c.id).where(~recent))).all()
            if ids:
                await connection.execute(sa.delete(events).where(events.c.id.in_(ids)))
        return len(ids)

    async def census(self) -> Census:
        """Count the rows."""
        counting = sa.select(images.c.status, sa.func.count().label("images")).group_by(
            images.c.status
        )
        async with self._database.reading() as connection:
            counts = {row.status: row.images for row in await connection.execute(counting)}
            return Census(counts, await connection.scalar(longest_wait(self._clock())))

    async def _take(
        self, status: Status, values: dict[str, Any], *conditions: sa.ColumnElement[bool]
    ) -> Sequence[int]:
        now = self._clock()
        choosing = (
            sa.select(images.c.id)
            .where(
                images.c.status == status,
                is_due(images, now, self._latest_due_ms),
                *conditions,
            )
            .order_by(images.c.due_at)
            .limit(BATCH)
            .with_for_update(skip_locked=True)
        )
        async with self._database.transaction() as connection:
            ids = (await connection.scalars(choosing)).all()
            if ids:
                moved = {"due_at": now + self._ring_again_ms, **values}
                if "status" in values:
                    moved["updated_at"] = now
                await connection.execute(
                    sa.update(images).where(images.c.id.in_(ids)).values(moved)
                )
            if values.get("status") in FINAL:
                await note_events(connection, now, EventKind.IMAGE, ids)
        return ids


class DatabaseGarbage:
    """Takes notes of objects as :class:`DatabaseRows` takes rows."""

    def __init__(self, database: Database, clock: DatabaseClock) -> None:
        self._database = database
        self._clock = clock

    async def take(self) -> Sequence[Removal]:
        """Take objects that are due and that no row names."""
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
            Removal(row.object_key, row.object_tag, token)
            for row in found
            if row.object_key not in named
        ]

    async def removed(self, removals: Sequence[Removal]) -> None:
        """Note that they are gone; those that were expected are due once more."""
        now = self._clock()
        ours = sa.and_(
            garbage.c.object_key.in_([one.key for one in removals]),
            garbage.c.claim_token.in_({one.token for one in removals}),
        )
        done = sa.or_(garbage.c.object_tag.is_not(None), garbage.c.removed_at.is_not(None))
        async with self._database.transaction() as connection:
            await connection.execute(sa.delete(garbage).where(ours, done))
            await connection.execute(
                sa.update(garbage)
                .where(ours)
                .values(claim_token=None, removed_at=now, due_at=now + REMOVE_AGAIN_MS)
            )


class DatabasePictures:
    """The port ``Rows`` of the thumbnails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def gone(self, thumbnails: Mapping[str, int]) -> Sequence[str]:
        """Return those of the keys whose picture, or face, has no row any more."""
        of_faces = {key for key in thumbnails if key.startswith(OF_FACES)}
        async with self._database.reading() as connection:
            gone = sorted(of_faces - await _of_faces(connection, of_faces))
        for prefix, column in ((OF_IMAGES, images.c.id), (OF_KNOWN, person_images.c.id)):
            its = {key: one for key, one in thumbnails.items() if key.startswith(prefix)}
            query = sa.select(column).where(column.in_(sorted(set(its.values()))))
            async with self._database.reading() as connection:
                there = set(await connection.scalars(query))
            gone += [key for key, one in its.items() if one not in there]
        return gone


async def _named(connection: AsyncConnection, keys: Iterable[str]) -> set[str]:
    """Return those of the keys that a row names."""
    named: set[str] = set()
    for prefix, column in ((PICTURES, images.c.path), (KNOWN_PEOPLE, person_images.c.image_name)):
        names = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
        if names:
            found = await connection.scalars(sa.select(column).where(column.in_(names)))
            named |= {prefix + name for name in found}
    # A face may be where another one was: its picture was looked at again, or it was restored.
    return named | await _of_faces(connection, keys)


async def _of_faces(connection: AsyncConnection, keys: Iterable[str]) -> set[str]:
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
