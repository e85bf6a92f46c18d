"""Wrong passwords in the database."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.addresses import origin
from services.common.clock import DatabaseClock, database_now
from services.common.database import Database
from services.common.tables import log_in_failures
from services.receiver.adapters.rows.conflicts import retry_on_conflict
from services.receiver.domain.attempts import (
    FORGOTTEN_AFTER_MS,
    FREE_OF_ADDRESS,
    FREE_OF_NAME,
    MAX_DELAY_MS,
    delay_ms,
)
from services.receiver.service.lookups import SharedLookup

_ALL: Final = ""
"""In place of a name's digest: all of the address."""

_FORGOTTEN_AT_ONCE: Final = 1000

_Counts = tuple[str, tuple[str, str]]
"""An address, and the digests of its rows that count for an attempt."""


class DatabaseAttempts:
    """Wrong passwords of the last day, counted for all replicas."""

    def __init__(self, database: Database, now: DatabaseClock = database_now) -> None:
        self._database = database
        self._now = now
        self._waits = SharedLookup(self._look_up)

    async def begin(self, address: str, name: str) -> int:
        whose, digests = origin(address), (_ALL, _digest(name))
        # First without a lock and a write: there may be very many to refuse.
        return await self._waits.get((whose, digests)) or await self._count(whose, digests)

    async def _look_up(self, asked: Collection[_Counts]) -> Mapping[_Counts, int]:
        everywhere = {whose for whose, _ in asked}
        any_digest = {digest for _, digests in asked for digest in digests}
        query = self._counted(
            log_in_failures.c.address.in_(everywhere), log_in_failures.c.name_digest.in_(any_digest)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return {
            (whose, digests): _wait_ms(
                [row for row in rows if row.address == whose and row.name_digest in digests]
            )
            for whose, digests in asked
        }

    def _counted(self, *which: sa.ColumnElement[bool]) -> sa.Select[Any]:
        return sa.select(self._now().label("now"), log_in_failures).where(*which)

    @retry_on_conflict
    async def _count(self, whose: str, digests: Sequence[str]) -> int:
        now = self._now()
        async with self._database.transaction() as connection:
            # Whoever comes from the same address waits here for its row.
            await self._put(connection, address=whose, name_digest=_ALL)
            rows = (await connection.execute(self._counted(_are(whose, digests)))).all()
            if wait_ms := _wait_ms(rows):
                return wait_ms
            failures = {row.name_digest: _failures(row) + 1 for row in rows}
            for digest in digests:
                count = failures.get(digest, 1)
                free = FREE_OF_ADDRESS if digest == _ALL else FREE_OF_NAME
                await self._put(
                    connection,
                    address=whose,
                    name_digest=digest,
                    failures=count,
                    next_at=now + delay_ms(count, free),
                    updated_at=now,
                )
        return 0

    async def _put(self, connection: AsyncConnection, **values: Any) -> None:
        """Change a row, or add one; what is not given stays, and is 0 in a new row."""
        key = {"address", "name_digest"}
        new = {"failures": 0, "next_at": 0, "updated_at": self._now(), **values}
        # A row that is there is held in any case.
        changed = {name: values.get(name, log_in_failures.c[name]) for name in new.keys() - key}
        statement: sa.Insert
        if self._database.is_sqlite:
            statement = sqlite.insert(log_in_failures).on_conflict_do_update(key, set_=changed)
        else:
            statement = mysql.insert(log_in_failures).on_duplicate_key_update(changed)
        await connection.execute(statement.values(new))

    @retry_on_conflict
    async def right(self, address: str, name: str) -> None:
        whose = origin(address)
        async with self._database.transaction() as connection:
            await connection.execute(_taken_back(whose, [_ALL]))
            await connection.execute(sa.delete(log_in_failures).where(_are(whose, [_digest(name)])))

    @retry_on_conflict
    async def not_made(self, address: str, name: str) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(_taken_back(origin(address), [_ALL, _digest(name)]))

    @retry_on_conflict
    async def forget_old(self) -> int:
        key = sa.tuple_(log_in_failures.c.address, log_in_failures.c.name_digest)
        old = log_in_failures.c.updated_at <= self._now() - FORGOTTEN_AFTER_MS
        query = sa.select(log_in_failures.c.address, log_in_failures.c.name_digest).where(old)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query.limit(_FORGOTTEN_AT_ONCE))).all()
        if rows:
            async with self._database.transaction() as connection:
                await connection.execute(
                    sa.delete(log_in_failures).where(key.in_([tuple(row) for row in rows]), old)
                )
        return len(rows)


def _are(whose: str, digests: Sequence[str]) -> sa.ColumnElement[bool]:
    table = log_in_failures
    return sa.and_(table.c.address == whose, table.c.name_digest.in_(digests))


def _taken_back(whose: str, digests: Sequence[str]) -> sa.Update:
    """Return what counts one attempt less; who made it had waited for it already."""
    failures = log_in_failures.c.failures
    return (
        sa.update(log_in_failures)
        .where(_are(whose, digests))
        .values(failures=sa.case((failures > 0, failures - 1), else_=0), next_at=0)
    )


def _wait_ms(rows: Sequence[Any]) -> int:
    """Return how long to wait; a time farther away is of before the clock was set back."""
    waits = [row.next_at - row.now for row in rows]
    return max((wait for wait in waits if 0 < wait <= MAX_DELAY_MS), default=0)


def _failures(row: Any) -> int:
    return row.failures if row.updated_at > row.now - FORGOTTEN_AFTER_MS else 0


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
