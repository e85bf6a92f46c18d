"""People and their known pictures in the database."""

from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import Clock, DatabaseClock, database_now
from services.common.database import Database
from services.common.faces import DecidedBy
from services.common.images import KNOWN_PEOPLE
from services.common.objects import ObjectInfo
from services.common.tables import faces, garbage, images, person_images, persons
from services.receiver.adapters.garbage import all_expected, remove_soon, settle
from services.receiver.domain import (
    FaceOfResult,
    KnownPicture,
    NewKnownPicture,
    PeoplePage,
    Person,
    Removal,
    known_thumbnail,
)


class DatabasePeople:
    """The port ``People`` on a database."""

    def __init__(self, database: Database, now: Clock, clock: DatabaseClock = database_now) -> None:
        self._database = database
        self._now = now
        self._clock = clock

    async def all(self) -> tuple[Person, ...]:
        """Return everybody, by name."""
        return await self._load(persons)

    async def page(
        self, *, person: str | None, part: str | None, after: str | None, limit: int
    ) -> PeoplePage:
        """Return the first people by name, of the names beyond ``after``."""
        # Told, because MariaDB sorts everybody where it believes that to be as quick.
        query = sa.select(persons).with_hint(persons, "FORCE INDEX (uq_persons_name)", "mysql")
        if person is not None:
            query = query.where(persons.c.name == person)
        if part:
            # SQLite's lower() knows no letters but those of ASCII, so of others it finds the usual
            # forms: as they are, small, and capital at the start of words.
            query = query.where(
                sa.or_(
                    sa.func.lower(persons.c.name).contains(part.lower(), autoescape=True),
                    persons.c.name.contains(part.title(), autoescape=True),
                )
            )
        if after is not None:
            query = query.where(persons.c.name > after)
        # One more tells whether there is a next page.
        found = await self._load(query.order_by(persons.c.name).limit(limit + 1).subquery())
        return PeoplePage(found[:limit], found[limit - 1].name if len(found) > limit else None)

    async def get(self, name: str) -> Person | None:
        """Return one person."""
        found = await self._load(sa.select(persons).where(persons.c.name == name).subquery())
        return found[0] if found else None

    async def _load(self, chosen: sa.FromClause) -> tuple[Person, ...]:
        async with self._database.reading() as connection:
            rows = await connection.execute(
                sa.select(
                    chosen.c.name,
                    person_images.c.id,
                    person_images.c.image_name,
                    person_images.c.created_at,
                )
                .select_from(
                    chosen.outerjoin(person_images, person_images.c.person_id == chosen.c.id)
                )
                .order_by(chosen.c.name, person_images.c.id)
            )
        pictures: dict[str, list[KnownPicture]] = {}
        for name, picture_id, image_name, created_at in rows:
            its = pictures.setdefault(name, [])
            if picture_id is not None:
                its.append(KnownPicture(picture_id, name, image_name, created_at))
        return tuple(Person(name, tuple(its)) for name, its in pictures.items())

    async def find(self, content_digest: str) -> KnownPicture | None:
        """Return the known picture with this content, whose ever it is."""
        async with self._database.reading() as connection:
            return await _find(connection, content_digest)

    async def add(self, picture: NewKnownPicture, face: FaceOfResult | None) -> KnownPicture | None:
        """Make content a known picture of a person, unless it is somebody's already."""
        async with self._database.transaction() as connection:
            await _take_turns(connection)
            if not await all_expected(connection, self._clock, [_key(picture.image_name)]):
                return None
            known = await _find(connection, picture.content_digest)
            if known is None:
                known = await self._insert(connection, picture.person, picture.image_name)
                named, unnamed = [_key(picture.image_name)], []
            else:
                named, unnamed = [], [_key(picture.image_name)]
            await settle(connection, self._clock, named=named, unnamed=unnamed)
            if face and known.person == picture.person:
                await _name_face(connection, face, picture.person)
        return known

    async def _insert(
        self, connection: AsyncConnection, name: str, image_name: str
    ) -> KnownPicture:
        now = self._now()
        find_person = sa.select(persons.c.id).where(persons.c.name == name)
        person_id = await connection.scalar(find_person)
        if person_id is None:
            await connection.execute(sa.insert(persons).values(name=name, created_at=now))
            person_id = await connection.scalar(find_person)
        inserted: sa.CursorResult[tuple[()]] = await connection.execute(
            sa.insert(person_images).values(
                person_id=person_id, image_name=image_name, created_at=now
            )
        )
        return KnownPicture(int(inserted.lastrowid), name, image_name, now)

    async def replace_object(
        self, known: KnownPicture, picture: NewKnownPicture
    ) -> KnownPicture | None:
        """Name a new object in the row of a known picture, whose own is lost."""
        async with self._database.transaction() as connection:
            await _take_turns(connection)
            if not await all_expected(connection, self._clock, [_key(picture.image_name)]):
                return None
            result = await connection.execute(
                sa.update(person_images)
                .where(
                    person_images.c.id == known.id,
                    person_images.c.image_name == known.image_name,
                )
                .values(image_name=picture.image_name)
            )
            if result.rowcount != 1:
                return known
            await settle(connection, self._clock, named=[_key(picture.image_name)], unnamed=[])
        return replace(known, image_name=picture.image_name)

    async def delete_picture(self, picture_id: int) -> None:
        """Remove a known picture, and have its object and its thumbnail removed."""
        async with self._database.transaction() as connection:
            await _take_turns(connection)
            await self._forget(connection, person_images.c.id == picture_id)

    async def delete(self, name: str, found: Sequence[ObjectInfo]) -> int:
        """Remove a person and all known pictures, and have their objects and thumbnails removed."""
        async with self._database.transaction() as connection:
            await _take_turns(connection)
            person = persons.c.name == name
            its_id = sa.select(persons.c.id).where(person).scalar_subquery()
            gone = await self._forget(connection, person_images.c.person_id == its_id)
            result = await connection.execute(sa.delete(persons).where(person))
            strays = await self._strays(connection, found, gone)
            await remove_soon(connection, self._clock, strays)
        return result.rowcount + len(gone) + len(strays)

    async def _forget(self, connection: AsyncConnection, which: sa.ColumnElement[bool]) -> set[str]:
        """Remove known pictures; have their objects, whose keys are returned, and thumbnails go."""
        query = sa.select(person_images.c.id, person_images.c.image_name).where(which)
        names = {row.id: row.image_name for row in await connection.execute(query)}
        keys = {_key(name) for name in names.values()}
        await connection.execute(sa.delete(person_images).where(which))
        thumbnails = {known_thumbnail(picture_id).key for picture_id in names}
        removals = [Removal(key, None) for key in keys | thumbnails]
        await remove_soon(connection, self._clock, removals)
        return keys

    async def _strays(
        self, connection: AsyncConnection, found: Sequence[ObjectInfo], gone: set[str]
    ) -> list[Removal]:
        """Return the objects that no row names and no note has removed as they are.

        A note without a tag is of an object that is being enrolled, or of one that was.
        """
        keys = [one.key for one in found]
        noted: dict[str, str | None] = {
            row.object_key: row.object_tag
            for row in await connection.execute(
                sa.select(garbage.c.object_key, garbage.c.object_tag).where(
                    garbage.c.object_key.in_(keys)
                )
            )
        }
        named = {
            _key(name)
            for name in await connection.scalars(
                sa.select(person_images.c.image_name).where(
                    person_images.c.image_name.in_([key.removeprefix(KNOWN_PEOPLE) for key in keys])
                )
            )
        }
        return [
            Removal(one.key, one.tag)
            for one in found
            if one.key not in gone | named
            and (one.key not in noted or noted[one.key] not in (None, one.tag))
        ]


async def _take_turns(connection: AsyncConnection) -> None:
    """Let one change of people be made at a time.

    Two people could get one picture at once, and a person could go while a picture comes. This row
    is the one that every database has; SQLite has one writer anyway.
    """
    await connection.execute(
        sa.select(sa.column("version_num"))
        .select_from(sa.table("alembic_version"))
        .with_for_update()
    )


async def _name_face(connection: AsyncConnection, face: FaceOfResult, person: str) -> None:
    # The image may have been looked at again meanwhile; then its faces are others.
    same_result = sa.exists().where(
        images.c.id == face.image_id,
        images.c.processed_at.is_not_distinct_from(face.processed_at),
    )
    await connection.execute(
        sa.update(faces)
        .where(faces.c.image_id == face.image_id, faces.c.face_index == face.index, same_result)
        # Nobody measured a distance, and a person's word is not a guess.
        .values(
            person=person,
            distance=None,
            ambiguous=False,
            decided_by=DecidedBy.HAND,
            likeness=None,
            calibration=None,
        )
    )


def _key(image_name: str) -> str:
    return KNOWN_PEOPLE + image_name


async def _find(connection: AsyncConnection, content_digest: str) -> KnownPicture | None:
    # Names end in the digest, which no index leads to; a scan of the names is a few milliseconds.
    row = (
        await connection.execute(
            sa.select(
                person_images.c.id,
                persons.c.name,
                person_images.c.image_name,
                person_images.c.created_at,
            )
            .join_from(person_images, persons)
            .where(person_images.c.image_name.like(f"%/{content_digest}.%"))
            .limit(1)
        )
    ).first()
    return KnownPicture(*row) if row else None
