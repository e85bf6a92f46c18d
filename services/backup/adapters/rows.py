"""What the database says of backups."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import sqlalchemy as sa

from services.backup.domain import BackupError, Summary
from services.common.claims import HOLD_MS
from services.common.clock import DatabaseClock
from services.common.database import Database
from services.common.errors import AwayError
from services.common.tables import backups

_RENEW_SECONDS: Final = HOLD_MS / 4000
_MAX_ERROR: Final = 500


class DatabaseBackupRows:
    """A row for each backup."""

    def __init__(self, database: Database, clock: DatabaseClock) -> None:
        self._database = database
        self._clock = clock

    async def begin(self, name: str) -> None:
        row = sa.insert(backups).values(name=name, started_at=self._clock())
        try:
            async with self._database.transaction() as connection:
                await connection.execute(row)
        except sa.exc.IntegrityError:
            raise BackupError(f"another backup has begun in this second: {name}") from None

    @asynccontextmanager
    async def holding(self, name: str) -> AsyncIterator[None]:
        is_this = backups.c.name == name
        await self._update(is_this, held_until=self._clock() + HOLD_MS)
        is_held = sa.and_(is_this, backups.c.held_until >= self._clock())
        renewing = asyncio.create_task(self._renew(is_held))
        try:
            yield
        finally:
            renewing.cancel()
            with suppress(asyncio.CancelledError):
                await renewing
            was_held = await self._update(is_held, held_until=None)
        if not was_held:
            raise BackupError(
                "objects may have been removed while they were copied: the database was away for"
                f" {HOLD_MS // 1000} s or its clock was changed; take another backup"
            )

    async def end(self, name: str, summary: Summary | None, error: str | None) -> None:
        await self._update(
            backups.c.name == name,
            finished_at=self._clock(),
            held_until=None,
            objects=summary and summary.objects,
            bytes=summary and summary.bytes,
            error=error and error[:_MAX_ERROR],
        )

    async def _renew(self, is_held: sa.ColumnElement[bool]) -> None:
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            with suppress(AwayError):
                await self._update(is_held, held_until=self._clock() + HOLD_MS)

    async def _update(self, which: sa.ColumnElement[bool], **values: object) -> bool:
        async with self._database.transaction() as connection:
            done = await connection.execute(sa.update(backups).where(which).values(values))
        return done.rowcount == 1
