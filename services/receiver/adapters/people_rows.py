"""People and their known pictures in the database."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import Clock
from services.common.database import Database
from services.common.tables import faces, person_images, persons
from services.receiver.domain import KnownPicture, Person


class DatabasePeople:
    """The port ``People`` on a database."""

    def __init__(self, database: Database, now: Clock) -> None:
        self._database = database
        self._now = now

    async def all(self) -> tuple[Person, ...]:
        """Return everybody, by name."""
        return await self._load(sa.true())

    async def get(self, name: str) -> Person | None:
        """Return one person."""
        found = await self._load(persons.c.name == name)
        return found[0] if found else None

    async def _load(self, which: sa.ColumnElement[bool]) -> tuple[Person, ...]:
        async with self._database.reading() as connection:
            rows = await connection.execute(
                sa.select(
                    persons.c.name,
                    person_images.c.id,
                    person_images.c.image_name,
                    person_images.c.created_at,
                )
                .select_from(persons.outerjoin(person_images))
                .where(which)
                .order_by(persons.c.name, person_images.c.id)
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

    async def add(
        self, name: str, content_digest: str, extension: str, face: tuple[int, int] | None
    ) -> KnownPicture:
        """Make content a known picture of a person, unless it is somebody's already."""
        now = self._now()
        async with self._database.transaction() as connection:
            # One enrolment at a time, or two people could get the same picture at once. This row
            # is the one that every database has; SQLite has one writer anyway.
            await connection.execute(
                sa.select(sa.column("version_num"))
                .select_from(sa.table("alembic_version"))
                .with_for_update()
            )
            known = await _find(connection, content_digest)
            if known is None:
                known = await self._insert(
                    connection, name, f"{name}/{content_digest}.{extension}", now
                )
            if face and known.person == name:
                image_id, index = face
                await connection.execute(
                    sa.update(faces)
                    .where(faces.c.image_id == image_id, faces.c.face_index == index)
                    # Nobody measured a distance, and a person's word is not a guess.
                    .values(person=name, distance=None, ambiguous=False)
                )
        return known

    async def _insert(
        self, connection: AsyncConnection, name: str, image_name: str, now: int
    ) -> KnownPicture:
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

    async def delete_picture(self, picture_id: int) -> None:
        """Remove a known picture."""
        async with self._database.transaction() as connection:
            await connection.execute(
                sa.delete(person_images).where(person_images.c.id == picture_id)
            )

    async def delete(self, name: str) -> None:
        """Remove a person and all known pictures."""
        async with self._database.transaction() as connection:
            await connection.execute(sa.delete(persons).where(persons.c.name == name))


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
