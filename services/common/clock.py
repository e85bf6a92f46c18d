"""Time as the rows hold it: whole milliseconds since the Unix epoch, UTC.

Leases and due times are set and compared by the database's clock alone, so those of hosts may
differ. That one may be set back too: see ``is_due`` in due_rows.py.
"""

import time
from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

Clock = Callable[[], int]

DatabaseClock = Callable[[], sa.ColumnElement[int]]
"""Returns an expression for the time at which the statement begins that holds it."""

SQLITE_NOW: Final = "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"
MARIADB_NOW: Final = (
    # Of the functions that know milliseconds only these two know nothing of time zones.
    "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000)"
)


def now_ms() -> int:
    """Return this host's time, for what is only shown."""
    return time.time_ns() // 1_000_000


class database_now(FunctionElement[int]):  # noqa: N801, it reads as the function that it is
    """The database's time."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(database_now, "sqlite")
def _sqlite_now(*_: object, **__: Any) -> str:
    return SQLITE_NOW


@compiles(database_now, "mysql")
@compiles(database_now, "mariadb")
def _mariadb_now(*_: object, **__: Any) -> str:
    return MARIADB_NOW
