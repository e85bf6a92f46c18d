import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from services.common import tables
from services.common.claims import Rules
from services.common.database import Database
from services.common.doorbell import Doorbell
from services.common.errors import DoorbellUnavailableError
from services.redeemer.adapters.repairs import DatabaseRepairs
from services.redeemer.service.repairing import Redeemer
from services.testing.fixtures import new_mariadb_settings
from services.testing.servers import MariaDb

NOW = 1_000_000
ENOUGH_RINGS = 1000


class MemoryDoorbell:
    """A doorbell in memory. ``full``: nothing is taken, although it answers."""

    polled = False

    def __init__(self) -> None:
        self.up = True
        self.full = False
        self.waiting = 0
        self.rings: list[int] = []

    async def ring(self, image_ids: Sequence[int]) -> None:
        await asyncio.sleep(0)
        if not self.up or self.full:
            raise DoorbellUnavailableError("no answer")
        self.rings += image_ids
        self.waiting += len(image_ids)

    def heard(self, count: int) -> list[int]:
        """Take the oldest rings, as processors do; these are all that wait."""
        taken = self.rings[len(self.rings) - self.waiting :][:count]
        self.waiting -= len(taken)
        return taken

    async def depth(self) -> int:
        if not self.up:
            raise DoorbellUnavailableError("no answer")
        return self.waiting

    async def close(self) -> None:
        pass


class Images:
    """Rows of images, at a time that a test moves."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now = NOW

    def clock(self) -> sa.ColumnElement[int]:
        return sa.literal(self.now, sa.BigInteger())

    async def add(self, count: int = 1, **values: Any) -> None:
        row = {
            "status": "pending",
            "attempt": 0,
            "due_at": None,
            "created_at": NOW,
            "updated_at": NOW,
            "claim_token": None,
            **values,
        }
        number = sa.select(sa.func.count()).select_from(tables.images)
        async with self.database.transaction() as connection:
            there = await connection.scalar(number) or 0
            await connection.execute(
                sa.insert(tables.images),
                [
                    {**row, "path": f"{image_id}", "name": f"{image_id}", "id": image_id}
                    for image_id in range(there + 1, there + count + 1)
                ],
            )

    async def rows(self) -> Sequence[Any]:
        query = sa.select(tables.images).order_by(tables.images.c.id)
        async with self.database.reading() as connection:
            return (await connection.execute(query)).all()

    async def row(self) -> Any:
        """Return the only one."""
        [row] = await self.rows()
        return row


def replica(
    images: Images, doorbell: Doorbell, database: Database | None = None, **rules: int
) -> Redeemer:
    """Return a redeemer of the images, on connections of its own where ``database`` is given."""
    rows = DatabaseRepairs(database or images.database, images.clock, rules=Rules(**rules))
    return Redeemer(rows=rows, doorbell=doorbell, enough_rings=ENOUGH_RINGS)


@pytest.fixture
def images(database: Database) -> Images:
    return Images(database)


@pytest.fixture
def doorbell() -> MemoryDoorbell:
    return MemoryDoorbell()


@pytest.fixture
def redeemer(images: Images, doorbell: MemoryDoorbell) -> Redeemer:
    return replica(images, doorbell)


@pytest.fixture
async def mariadb_database(mariadb: MariaDb) -> AsyncIterator[tuple[Database, str]]:
    settings = new_mariadb_settings(mariadb)
    database = Database(settings)
    yield database, settings.database_url
    await database.close()
