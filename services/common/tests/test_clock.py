import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import database_now, now_ms
from services.common.database import Database


async def _ask(connection: AsyncConnection) -> int:
    return (await connection.execute(sa.select(database_now()))).scalar_one()


async def test_the_databases_time_is_milliseconds_since_the_epoch(database: Database) -> None:
    async with database.reading() as connection:
        before = now_ms()
        found = [await _ask(connection) for _ in range(50)]
        after = now_ms()
    # On the same machine it is the same clock; SQLite rounds.
    assert all(before - 1 <= one <= after + 1 for one in found), (before, found, after)
    assert found == sorted(found)
    assert any(one % 1000 for one in found)


@pytest.mark.parametrize("zone", ["+05:30", "-11:00"])
async def test_a_time_zone_changes_nothing(database: Database, zone: str) -> None:
    async with database.reading() as connection:
        if not database.is_sqlite:
            await connection.exec_driver_sql(f"SET time_zone = '{zone}'")
        assert abs(await _ask(connection) - now_ms()) < 60_000
