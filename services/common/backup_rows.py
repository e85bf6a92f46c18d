"""How the backups stand, by the rows that they write."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import DatabaseClock
from services.common.tables import backups


@dataclass(frozen=True, slots=True)
class BackupReport:
    """How the backups stand.

    ``last_good_seconds`` is the age of the last good one, None when there was none;
    ``without_seconds`` the same, or else how long ago the first attempt began. ``error`` says why
    the last one that ended was none.
    """

    last_good_seconds: float | None
    without_seconds: float
    error: str | None


async def backup_report(connection: AsyncConnection, clock: DatabaseClock) -> BackupReport | None:
    """Return how the backups stand; None where none was ever tried."""
    good = sa.select(sa.func.max(backups.c.finished_at)).where(backups.c.error.is_(None))
    first = sa.select(sa.func.min(backups.c.started_at))
    last = (
        sa.select(backups.c.error)
        .where(backups.c.finished_at.is_not(None))
        .order_by(backups.c.started_at.desc())
        .limit(1)
    )
    query = sa.select(
        clock().label("now"),
        good.scalar_subquery().label("good"),
        first.scalar_subquery().label("first"),
        last.scalar_subquery().label("error"),
    )
    row = (await connection.execute(query)).one()
    if row.first is None:
        return None
    age = None if row.good is None else max(row.now - row.good, 0) / 1000
    without = max(row.now - row.first, 0) / 1000 if age is None else age
    return BackupReport(age, without, row.error)
