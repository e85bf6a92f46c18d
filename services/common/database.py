"""Connections to the database: SQLite on one machine, MariaDB in a cluster."""

import asyncio
import re
import sqlite3
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncmy
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from services.common.errors import DatabaseConflictError, DatabaseUnavailableError
from services.common.passwords import log_in_with
from services.common.settings import DatabaseSettings
from services.common.tables import metadata

REVISION: Final = "0011"
"""The Alembic revision that this code works on; migrations bring the database there."""


class Database:
    """One pool of connections.

    >>> async with database.transaction() as connection: ...  # commits, or rolls back on error
    >>> async with database.reading() as connection: ...      # each statement on its own

    Both raise :class:`DatabaseUnavailableError` when the server is away, full, read-only or busy
    beyond its limits, or the migrations have not run, and :class:`DatabaseConflictError` when
    MariaDB ended the transaction for another one's sake. Anything else that goes wrong is the
    statement's fault, and SQLAlchemy's or the driver's error for it is passed on.
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
        """Open a connection on which each statement is a transaction of its own.

        It sees what was committed when it began, and is committed with its end. Nothing is held
        between two of them, neither a lock nor an old version of the rows.
        """
        with self._translated():
            async with self._engine.connect() as connection:
                if not self.is_sqlite:  # whose driver begins none, see _prepare_sqlite
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                yield connection

    async def empty_log(self) -> None:
        """Bring SQLite's write-ahead log into the file and empty it: it holds what was deleted.

        What is being read now keeps it for the next time. MariaDB does so by itself.
        """
        if self.is_sqlite:
            async with self.reading() as connection:
                await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

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
        """Turn what may pass into a :class:`DatabaseUnavailableError`."""
        # What fails between two statements, SQLAlchemy hands on as the driver's own error.
        drivers = self._engine.dialect.loaded_dbapi.Error
        try:
            yield
        except (sa.exc.SQLAlchemyError, OSError, drivers) as error:
            if not _is_passing(error):
                raise
            cause = getattr(error, "orig", None) or error
            conflict = not _is_sqlite(cause) and _code(cause) in _MARIADB_CONFLICT
            kind = DatabaseConflictError if conflict else DatabaseUnavailableError
            raise kind(str(cause)) from error


class HeldConnection:
    """One connection for a query that is asked all the time, one at a time.

    To take one out of the pool each time costs three times the query itself.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: AsyncExitStack | None = None
        self._connection: AsyncConnection | None = None

    async def rows(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        """Return what a query gives that sees all that was committed before.

        Raises ``DatabaseUnavailableError``; what was held and is broken is replaced before.
        """
        if self._connection:
            # Whatever is wrong with it, another one is tried, which says so if it is the query.
            with suppress(Exception):
                found: Sequence[sa.Row[Any]] = (await self._connection.execute(query)).all()
                return found
            broken, self._connection = self._connection, None
            with suppress(Exception):
                await broken.invalidate()
            await self.close()
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(self._database.reading())
            rows: Sequence[sa.Row[Any]] = (await connection.execute(query)).all()
            self._held, self._connection = stack.pop_all(), connection
        return rows

    async def close(self) -> None:
        """Give the connection back."""
        held, self._held, self._connection = self._held, None, None
        if held:
            await held.aclose()


def _create_engine(settings: DatabaseSettings) -> AsyncEngine:
    url = sa.make_url(settings.database_url)
    is_sqlite = url.get_backend_name() == "sqlite"
    of_mariadb: dict[str, Any] = {
        "pool_pre_ping": True,  # a restarted server leaves dead connections in the pool
        "pool_recycle": 1800,
        "connect_args": {
            "async_creator_fn": partial(_connect, settings.database_ca_file),
            "connect_timeout": 3,
            # A host that vanished says nothing, and TCP would wait for it for a quarter of an hour.
            "read_timeout": settings.database_timeout_seconds,
            "charset": "utf8mb4",
        },
        "isolation_level": "READ COMMITTED",
    }
    engine = create_async_engine(
        url,
        pool_size=settings.database_pool_size,
        max_overflow=0,
        hide_parameters=True,  # they are names and encodings, and errors go into logs
        **({} if is_sqlite else of_mariadb),
    )
    event.listen(engine.sync_engine, "handle_error", _mark_broken)
    if is_sqlite:
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "invalidate", _roll_back)
    elif file := settings.database_password_file:
        log_in_with(engine.sync_engine, file)
    return engine


async def _connect(authorities: Path | None, *arguments: Any, **named: Any) -> Any:
    """Connect as SQLAlchemy would, and say what happened when the server hangs up meanwhile."""
    if authorities:
        named["ssl"] = ssl.create_default_context(cafile=authorities)
    try:
        return await asyncmy.connect(*arguments, **named)
    except RuntimeError as error:  # the transport is closed already, and has no socket any more
        raise ConnectionResetError(
            "the server closed the connection before it was established"
        ) from error


def _prepare_sqlite(connection: Any, _: object) -> None:
    # The driver must not begin transactions by itself; Database.transaction does.
    connection.isolation_level = None
    # One damaged value does not make the other rows unreadable.
    connection.driver_connection.text_factory = lambda content: content.decode(errors="replace")
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # an acknowledged row outlives a power cut
    cursor.execute("PRAGMA busy_timeout = 5000")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA secure_delete = ON")  # zeros are left of what is deleted, and no trace
    cursor.close()


def _roll_back(connection: Any, *_: object) -> None:
    """End the transaction of a connection that is given up, as its caller was cancelled.

    Closing it does not: SQLite waits for its cursors, and what was cancelled may keep one, with the
    lock that all writers need, until the garbage is collected.
    """
    task = asyncio.ensure_future(connection.driver_connection.rollback())
    _ending.add(task)
    task.add_done_callback(_forget)


def _forget(task: asyncio.Future[None]) -> None:
    _ending.discard(task)
    if not task.cancelled():
        task.exception()  # it is given up in any case


_ending: Final[set[asyncio.Future[None]]] = set()
"""The loop alone would not keep them."""


# SQLite's result codes (https://sqlite.org/rescode.html); an extended one holds it in its low byte.
# The file or its folder is not to be written, read or opened now: an open connection may have come
# to terms with that, so the next call gets a new one.
_SQLITE_REOPEN: Final = frozenset(
    {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
)
_SQLITE_PASSING: Final = _SQLITE_REOPEN | {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_PROTOCOL,  # the race for the write-ahead log was lost too often
}

# https://mariadb.com/kb/en/mariadb-error-code-reference/, and `perror NUMBER` of the server.
# The server may only be read now: by an option, or because it is a replica since a failover, so
# that the next call should reach whoever writes.
_MARIADB_RECONNECT: Final = frozenset({1290, 1792, 1836})
# Changed since it was read, lock wait timeout, deadlock.
_MARIADB_CONFLICT: Final = frozenset({1020, 1205, 1213})
_MARIADB_PASSING: Final = (
    _MARIADB_RECONNECT
    | _MARIADB_CONFLICT
    # Disk or table space full, files that cannot be opened, read, written or locked, and what the
    # storage engine or a commit says of them; a table that is read only while the engine recovers.
    | {1015, 1016, 1021, 1023, 1024, 1026, 1030, 1036, 1114, 1180, 1181}
    # Out of memory, sort memory, threads, locks, transactions; connections, of all and of one user.
    | {1037, 1038, 1041, 1135, 1206, 1637}
    | {1040, 1203, 1226}
    # Interrupted by somebody or by a limit of time, and a sort that was.
    | {1028, 1317, 1927, 1969}
    # Shutting down, connections that break or are not taken, on the server's side and the client's;
    # one of the latter the driver calls 0.
    | {1053, 1077, 1078, 1079, 1042, 1043, 1129, 1152, 1158, 1159, 1160, 1161, 1184}
    | {0, 2002, 2003, 2005, 2006, 2013, 2014, 2026, 2055}
    # What a service is told that starts before the migrations made the database, its user or its
    # grants, or while its password is changed or its account is locked.
    | {1044, 1045, 1049, 1130, 1142, 1143, 1698, 1820, 1862, 4150, 4151}
)
_MARIADB_NO_SUCH_TABLE: Final = 1146
_MISSING_TABLE: Final = re.compile(r"no such table: (?:\w+\.)?(\w+)|'[^']*\.(\w+)'")
_OUR_TABLES: Final = frozenset({*metadata.tables, "alembic_version"})


def _mark_broken(context: sa.engine.ExceptionContext) -> None:
    """Have the pool drop its connections after errors that only new ones can be free of."""
    cause = context.original_exception
    if _code(cause) in (_SQLITE_REOPEN if _is_sqlite(cause) else _MARIADB_RECONNECT):
        context.is_disconnect = True


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, OSError | sa.exc.TimeoutError):
        return True
    cause: BaseException | None = error
    if isinstance(error, sa.exc.DBAPIError):
        if error.connection_invalidated:
            return True
        cause = error.orig
    if isinstance(cause, OSError | EOFError) or _lacks_table(cause):
        return True
    return _code(cause) in (_SQLITE_PASSING if _is_sqlite(cause) else _MARIADB_PASSING)


def _lacks_table(cause: BaseException | None) -> bool:
    """Tell whether the migrations have not run yet: a table is missing that they make.

    SQLite has no code for that, and MariaDB's says nothing of which table it is.
    """
    if not isinstance(cause, sqlite3.OperationalError) and _code(cause) != _MARIADB_NO_SUCH_TABLE:
        return False
    found = _MISSING_TABLE.search(str(cause))
    return found is not None and not _OUR_TABLES.isdisjoint(found.groups())


def _is_sqlite(cause: BaseException | None) -> bool:
    return isinstance(cause, sqlite3.Error)


def _code(cause: BaseException | None) -> object:
    if isinstance(cause, sqlite3.Error):
        # What the driver itself raises has none.
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF
    arguments: tuple[object, ...] = getattr(cause, "args", ())
    return arguments[0] if arguments else None
