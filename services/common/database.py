"""Connections to the database: SQLite on one machine, MariaDB in a cluster."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from services.common.passwords import log_in_with
from services.common.settings import DatabaseSettings

REVISION: Final = "0002"
"""The Alembic revision that this code works on; migrations bring the database there."""


class DatabaseUnavailableError(Exception):
    """The database did not answer; the same call may work later."""


class Database:
    """One pool of connections.

    >>> async with database.transaction() as connection: ...  # commits, or rolls back on error
    >>> async with database.reading() as connection: ...      # each statement on its own

    Both raise :class:`DatabaseUnavailableError` when the server is away, busy beyond its limits
    or chose this transaction to resolve a deadlock.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        self._engine = _create_engine(settings)
        self.is_sqlite = self._engine.dialect.name == "sqlite"

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction for writing."""
        with self._translated():
            async with self._engine.begin() as connection:
                if self.is_sqlite:
                    # Take the write lock at once: a transaction that starts by reading cannot be
                    # upgraded safely.
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Open a connection for statements that need no transaction.

        Each sees what was committed when it began. Nothing is held between two of them, neither a
        lock nor an old version of the rows.
        """
        with self._translated():
            async with self._engine.connect() as connection:
                if not self.is_sqlite:  # there, only transaction() begins one
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                yield connection

    async def check(self) -> None:
        """Raise if the server is away or its schema is older than this code."""
        async with self.reading() as connection:
            try:
                found = await connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
            except sa.exc.DBAPIError as error:
                if not _lacks_table(error.orig):
                    raise
                found = None
        # Expand, then contract: a newer schema still serves this code.
        if found is None or found < REVISION:
            raise DatabaseUnavailableError(
                f"database is at revision {found or 'none'}, this version needs {REVISION}:"
                " run the migrations"
            )

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn passing faults of the driver into DatabaseUnavailableError."""
        # What fails between two statements, SQLAlchemy hands on as the driver's own error.
        drivers = self._engine.dialect.loaded_dbapi.Error
        try:
            yield
        except (sa.exc.SQLAlchemyError, OSError, drivers) as error:
            if not _is_passing(error):
                raise
            raise DatabaseUnavailableError(str(getattr(error, "orig", None) or error)) from error


def _create_engine(settings: DatabaseSettings) -> AsyncEngine:
    url = sa.make_url(settings.database_url)
    if url.get_backend_name() == "sqlite":
        engine = create_async_engine(url, pool_size=settings.database_pool_size, max_overflow=0)
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        return engine
    arguments: dict[str, Any] = {
        "connect_timeout": 3,
        # A host that vanished says nothing, and TCP would wait for it for a quarter of an hour.
        "read_timeout": settings.database_timeout_seconds,
        "charset": "utf8mb4",
    }
    engine = create_async_engine(
        url,
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_pre_ping=True,  # a restarted server leaves dead connections in the pool
        pool_recycle=1800,
        connect_args=arguments,
        isolation_level="READ COMMITTED",
    )
    if file := settings.database_password_file:
        log_in_with(engine.sync_engine, file)
    return engine


def _prepare_sqlite(connection: Any, _: object) -> None:
    # The driver must not begin transactions by itself; Database.transaction does.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # an acknowledged row outlives a power cut
    cursor.execute("PRAGMA busy_timeout = 5000")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


# https://mariadb.com/kb/en/mariadb-error-codes/: too many connections, server shutdown, lock wait
# timeout, deadlock, the client's "cannot connect" and "connection lost" family, of which the driver
# calls one 0; and what a service is told that starts before the migrations made the database, its
# user or its grants.
_PASSING_CODES: Final = frozenset(
    {1040, 1053, 1205, 1213, 1927, 2002, 2003, 2006, 2013, 2014, 2055}
    | {0}
    | {1044, 1045, 1049, 1142}
)
_NO_SUCH_TABLE: Final = 1146


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, OSError | sa.exc.TimeoutError):
        return True
    cause: BaseException | None = error
    if isinstance(error, sa.exc.DBAPIError):
        if error.connection_invalidated:
            return True
        cause = error.orig
    if isinstance(cause, OSError | EOFError):
        return True
    if isinstance(cause, sqlite3.OperationalError):
        return "locked" in str(cause) or "busy" in str(cause) or _lacks_table(cause)
    return _code(cause) in _PASSING_CODES or _lacks_table(cause)


def _lacks_table(cause: BaseException | None) -> bool:
    """Tell whether the migrations have not run yet."""
    if isinstance(cause, sqlite3.OperationalError):
        return "no such table" in str(cause)
    return _code(cause) == _NO_SUCH_TABLE


def _code(cause: BaseException | None) -> object:
    arguments: tuple[object, ...] = getattr(cause, "args", ())
    return arguments[0] if arguments else None
