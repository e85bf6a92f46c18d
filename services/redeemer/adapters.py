"""The images in the database."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from services.common.clock import DatabaseClock
from services.common.database import Database
from services.common.images import MAX_ATTEMPTS, RING_AFTER_MS, Status
from services.common.tables import images, is_due, longest_wait
from services.redeemer.domain import BATCH, Census, unfinished


class DatabaseRows:
    """Takes rows so that no other replica takes them too.

    A row is chosen and changed in one transaction, and rows that another replica has chosen are
    skipped. On SQLite transactions take turns anyway.
    """

    def __init__(self, database: Database, clock: DatabaseClock) -> None:
        self._database = database
        self._clock = clock

    async def take_failed(self) -> Sequence[int]:
        """Make failed images that are due pending."""
        return await self._take(Status.FAILED, {"status": Status.PENDING})

    async def take_abandoned(self) -> Sequence[int]:
        """Make images whose lease is over pending, if they have an attempt left."""
        return await self._take(
            Status.PROCESSING,
            {"status": Status.PENDING, "claim_token": None},
            images.c.attempt < MAX_ATTEMPTS,
        )

    async def bury_abandoned(self) -> Sequence[int]:
        """Make images whose lease is over dead, if they have no attempt left."""
        return await self._take(
            Status.PROCESSING,
            {
                "status": Status.DEAD,
                "claim_token": None,
                "due_at": None,
                "error": unfinished(MAX_ATTEMPTS),
            },
            images.c.attempt >= MAX_ATTEMPTS,
        )

    async def take_waiting(self) -> Sequence[int]:
        """Move the due time of pending images that are due to the next interval."""
        return await self._take(Status.PENDING, {})

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
            .where(images.c.status == status, is_due(now), *conditions)
            .order_by(images.c.due_at)
            .limit(BATCH)
            .with_for_update(skip_locked=True)
        )
        async with self._database.transaction() as connection:
            ids = (await connection.scalars(choosing)).all()
            if ids:
                moved = {"due_at": now + RING_AFTER_MS, **values}
                if "status" in values:
                    moved["updated_at"] = now
                await connection.execute(
                    sa.update(images).where(images.c.id.in_(ids)).values(moved)
                )
        return ids
