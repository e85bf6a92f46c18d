"""Acknowledged submissions against the bare driver that commits the same rows."""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, Final

import asyncmy
import pymysql
from rich.console import Console
from rich.table import Table

from bench import load
from services.common.database import Database
from services.common.settings import DatabaseSettings
from services.migrations.__main__ import migrate
from services.receiver.adapters.rows.api_keys import DatabaseApiKeys
from services.receiver.domain.access import AccessScope
from services.receiver.domain.keys import WantedKey
from services.receiver.service.keys import Keyring
from services.testing.processes import Service
from services.testing.servers import MariaDb

CLIENTS: Final = 32
_BULK: Final = 100
_ROWS: Final = 1_000_000
_SECONDS: Final = 8

_COLUMNS: Final = "path, name, status, attempt, due_at, created_at, updated_at"
_INSERT: Final = f"INSERT INTO images ({_COLUMNS}) VALUES "
_FILL_ROW: Final = "'filled/' || {0}, 'filled', 'processed', 1, NULL, {0}, {0}"


def _rows(prefix: str, bulk: int) -> Iterator[list[tuple[object, ...]]]:
    numbers = count()
    while True:
        now = time.time_ns() // 1_000_000
        yield [
            (path, path, "pending", 0, now + 10_000, now, now)
            for path in (f"{prefix}/{next(numbers)}.jpg" for _ in range(bulk))
        ]


def _bare_sqlite(file: Path, prefix: str, bulk: int, seconds: float) -> float:
    """Return rows a second from as many connections as the clients of the receiver."""
    batches = _rows(prefix, bulk)
    lock = threading.Lock()
    until = time.perf_counter() + seconds
    done = [0] * CLIENTS

    def work(number: int) -> None:
        connection = sqlite3.connect(file, timeout=30, isolation_level=None)
        connection.execute("PRAGMA synchronous = FULL")
        while time.perf_counter() < until:
            with lock:
                batch = next(batches)
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_INSERT + "(?, ?, ?, ?, ?, ?, ?)", batch)
            connection.execute("COMMIT")
            done[number] += bulk
        connection.close()

    start = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as threads:
        list(threads.map(work, range(CLIENTS)))  # raises what one of them raised
    return sum(done) / (time.perf_counter() - start)


async def _bare_mariadb(port: int, database: str, prefix: str, bulk: int, seconds: float) -> float:
    batches = _rows(prefix, bulk)
    until = time.perf_counter() + seconds
    done = 0

    async def work() -> None:
        nonlocal done
        connection = await asyncmy.connect(
            host="127.0.0.1", port=port, user="root", db=database, charset="utf8mb4"
        )
        async with connection.cursor() as cursor:
            while time.perf_counter() < until:
                # asyncmy turns this into one INSERT with many rows.
                await cursor.executemany(_INSERT + "(%s, %s, %s, %s, %s, %s, %s)", next(batches))
                await connection.commit()
                done += bulk
        await connection.ensure_closed()

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(CLIENTS)))
    return done / (time.perf_counter() - start)


def fill(file: Path, rows: int) -> None:
    """Put processed images into a migrated SQLite database."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute(
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
            f" INSERT INTO images ({_COLUMNS}) SELECT {_FILL_ROW.format('i')} FROM n"
        )
        connection.commit()


class _Sqlite:
    name = "SQLite"

    def __init__(self, folder: Path) -> None:
        self._file = folder / "bench.db"
        self.url = f"sqlite+aiosqlite:///{self._file}"

    def bare(self, prefix: str, bulk: int, seconds: float) -> float:
        return _bare_sqlite(self._file, prefix, bulk, seconds)

    def fill(self, rows: int) -> None:
        fill(self._file, rows)


class _MariaDb:
    name = "MariaDB"

    def __init__(self, server: MariaDb) -> None:
        self._server = server
        self.url = server.url("bench")
        self._execute("CREATE DATABASE bench CHARACTER SET utf8mb4", database=None)

    def bare(self, prefix: str, bulk: int, seconds: float) -> float:
        return asyncio.run(_bare_mariadb(self._server.port, "bench", prefix, bulk, seconds))

    def fill(self, rows: int) -> None:
        row = _FILL_ROW.format("seq").replace("'filled/' || seq", "CONCAT('filled/', seq)")
        self._execute(
            f"INSERT INTO images ({_COLUMNS}) SELECT {row} FROM seq_1_to_{rows}",
            database="bench",
        )

    def _execute(self, statement: str, *, database: str | None) -> None:
        with pymysql.connect(
            host="127.0.0.1",
            port=self._server.port,
            user="root",
            database=database,
            autocommit=True,
            read_timeout=600,
        ) as connection:
            connection.cursor().execute(statement)


@contextlib.contextmanager
def receiver(url: str, folder: Path, **settings: str) -> Iterator[int]:
    """Run a receiver on the database, with these settings, and yield its port."""
    with Service(
        "services.receiver",
        folder / "receiver.log",
        database_url=url,
        object_store_url=f"file://{folder / 'store'}",
        face_recog_target="127.0.0.1:1",
        log_level="INFO",
        **settings,
    ) as service:
        yield service.port


def _new_key(url: str) -> str:
    """Return a key that may submit."""

    async def make() -> str:
        database = Database(DatabaseSettings(database_url=url))
        wanted = WantedKey("bench", frozenset({AccessScope.SUBMIT}), None)
        _, key = await Keyring(DatabaseApiKeys(database)).make(wanted, by="bench")
        await database.close()
        return key

    return asyncio.run(make())


def run(console: Console, folder: Path, *, short: bool) -> None:
    """Print the table; each row compares two neighbouring runs of the same length."""
    rows, seconds = (1_000, 0.2) if short else (_ROWS, _SECONDS)
    table = Table(
        "database",
        "rows before",
        "paths a request",
        "paths/s",
        "p50 ms",
        "p99 ms",
        "bare driver rows/s",
        "ratio",
        title=f"Acknowledged submissions, {CLIENTS} keep-alive clients with a key",
    )
    server = MariaDb(folder)
    try:
        server.start()
        databases: list[Any] = [_Sqlite(folder), _MariaDb(server)]
        for database in databases:
            migrate(DatabaseSettings(database_url=database.url))
            key = _new_key(database.url)
            for before in (0, rows):
                if before:
                    console.print(f"{database.name}: filling in {rows:,} rows …")
                    database.fill(rows)
                for bulk in (1, _BULK):
                    console.print(f"{database.name}, {before:,} rows, {bulk} a request …")
                    name = f"{before}-{bulk}"
                    bare = database.bare(f"bare-{name}", bulk, seconds)
                    with receiver(
                        database.url,
                        folder,
                        ACCESS="keys",
                        SUBMISSIONS_PER_MINUTE="1000000000",
                    ) as port:
                        load.submit(
                            port,
                            f"warm-{name}",
                            bulk=bulk,
                            clients=CLIENTS,
                            seconds=min(1, seconds),
                            key=key,
                        )
                        ours = load.submit(
                            port,
                            f"ours-{name}",
                            bulk=bulk,
                            clients=CLIENTS,
                            seconds=seconds,
                            key=key,
                        )
                    table.add_row(
                        database.name,
                        f"{before:,}",
                        str(bulk),
                        f"{ours.per_second:,.0f}",
                        f"{ours.p50_ms:.1f}",
                        f"{ours.p99_ms:.1f}",
                        f"{bare:,.0f}",
                        f"{ours.per_second / bare:.2f}",
                    )
    finally:
        server.stop()
    console.print(table)
