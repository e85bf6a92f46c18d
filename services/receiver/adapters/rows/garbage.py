"""Notes of objects to remove, in the transactions of the rows that name them or did."""

from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.claims import STORING_MS
from services.common.clock import database_now
from services.common.database import Database
from services.common.object_info import ObjectInfo
from services.common.object_keys import KNOWN_PEOPLE
from services.common.picture_rows import remove_soon
from services.common.stored_pictures import Removal
from services.common.tables import garbage, person_images


class DatabaseGarbage:
    """The port ``Garbage`` on a database."""

    def __init__(self, database: Database, *, storing_ms: int = STORING_MS) -> None:
        self._database = database
        self._storing_ms = storing_ms

    async def expect(self, key: str) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(
                sa.insert(garbage).values(object_key=key, due_at=database_now() + self._storing_ms)
            )

    async def discard(self, key: str) -> None:
        async with self._database.transaction() as connection:
            await remove_soon(connection, [Removal(key, None)])


async def all_expected(connection: AsyncConnection, keys: Collection[str]) -> bool:
    """Lock the notes of objects that were stored; False when a redeemer has been at any.

    Then that object may come after its removal, so it is removed once more.
    """
    found = await connection.scalars(
        sa.select(garbage.c.object_key)
        .where(
            garbage.c.object_key.in_(keys),
            garbage.c.claim_token.is_(None),
            garbage.c.removed_at.is_(None),
        )
        .order_by(garbage.c.object_key)
        .with_for_update()
    )
    late = set(keys) - set(found)
    await remove_soon(connection, [Removal(key, None) for key in late])
    return not late


async def settle(
    connection: AsyncConnection, *, named: Collection[str], unnamed: Collection[str]
) -> None:
    """Forget the notes of objects that have a row now; have the others removed."""
    if named:
        await connection.execute(sa.delete(garbage).where(garbage.c.object_key.in_(named)))
    if unnamed:
        await connection.execute(
            sa.update(garbage)
            .where(garbage.c.object_key.in_(unnamed))
            .values(due_at=database_now())
        )


async def find_strays(
    connection: AsyncConnection, found: Sequence[ObjectInfo], gone: Collection[str] = ()
) -> list[Removal]:
    """Return the objects that no row names, and that are neither gone nor noted already."""
    owners = await find_owners(connection, found)
    return [
        Removal(stored.key, stored.tag)
        for stored in await not_noted(connection, found)
        if stored.key not in gone and stored.key not in owners
    ]


async def find_owners(connection: AsyncConnection, found: Sequence[ObjectInfo]) -> dict[str, int]:
    """Return by key whose known pictures objects are, of those that a row names."""
    names = [stored.key.removeprefix(KNOWN_PEOPLE) for stored in found]
    owners = await connection.execute(
        sa.select(person_images.c.image_name, person_images.c.person_id).where(
            person_images.c.image_name.in_(names)
        )
    )
    return {KNOWN_PEOPLE + owner.image_name: owner.person_id for owner in owners}


async def not_noted(connection: AsyncConnection, found: Sequence[ObjectInfo]) -> list[ObjectInfo]:
    """Return the objects that are neither being enrolled nor to be removed as they are.

    A note without a tag is of an object that is being enrolled, or of one that was.
    """
    notes = await connection.execute(
        sa.select(garbage.c.object_key, garbage.c.object_tag).where(
            garbage.c.object_key.in_([stored.key for stored in found])
        )
    )
    tags = {note.object_key: note.object_tag for note in notes}
    return [
        stored
        for stored in found
        if stored.key not in tags or tags[stored.key] not in (None, stored.tag)
    ]
