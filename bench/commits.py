"""Commits on SQLite beside a process that counts all rows again and again, against none."""

import asyncio
import contextlib
import multiprocessing
import sqlite3
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.submissions import fill
from services.common.database import Database
from services.common.errors import DatabaseUnavailableError
from services.common.settings import DatabaseSettings
from services.migrations.__main__ import migrate
from services.receiver.adapters.rows.images import DatabaseImages
from services.receiver.domain.submissions import submission_of_path

_ROWS: Final = 400_000
_ROUNDS: Final = 4
_SECONDS: Final = 5


def _count(settings: DatabaseSettings, reading: Event) -> None:
    """Read what ``GET /status`` reads, until this process is ended."""

    async def count() -> None:
        rows = DatabaseImages(Database(settings))
        while True:
            await rows.status()
            reading.set()

    asyncio.run(count())


def _count_locked(settings: DatabaseSettings, reading: Event) -> None:
    """Read the same in transactions that take the write lock."""
    file = settings.database_url.removeprefix("sqlite+aiosqlite:///")
    with contextlib.closing(sqlite3.connect(file, timeout=60, isolation_level=None)) as connection:
        while True:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("SELECT status, count(*) FROM images GROUP BY status").fetchall()
            connection.execute("COMMIT")
            reading.set()


_READERS: Final = {
    "nobody": None,
    "a reader of /status": _count,
    "one that takes the write lock": _count_locked,
}


@contextlib.contextmanager
def _beside(reader: str, settings: DatabaseSettings) -> Iterator[None]:
    if (target := _READERS[reader]) is None:
        yield
        return
    context = multiprocessing.get_context("spawn")
    reading = context.Event()
    process = context.Process(target=target, args=(settings, reading), daemon=True)
    process.start()
    try:
        while not reading.wait(0.1):
            if not process.is_alive():
                raise SystemExit(f"{reader} ended before it had read anything")
        yield
        if not process.is_alive():
            raise SystemExit(f"{reader} ended, so the figures would mean nothing")
    finally:
        process.kill()
        process.join()


@dataclass
class _Commits:
    """The seconds that each took, and how many of them did not get the lock."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0

    async def go_on(self, settings: DatabaseSettings, prefix: str, seconds: float) -> None:
        """Commit one row at a time for so many seconds, and two at least."""
        database = Database(settings)
        rows = DatabaseImages(database)
        until = time.perf_counter() + seconds
        while (start := time.perf_counter()) < until or len(self.seconds) < 2:
            try:
                await rows.add([submission_of_path(f"{prefix}/{len(self.seconds)}")])
            except DatabaseUnavailableError:
                self.failed += 1
            self.seconds.append(time.perf_counter() - start)
        await database.close()


def run(console: Console, folder: Path, *, short: bool) -> None:
    """Print the table; the readers take turns, so that noise meets all of them."""
    rows, rounds, seconds = (1_000, 1, 0.5) if short else (_ROWS, _ROUNDS, _SECONDS)
    file = folder / "bench.db"
    settings = DatabaseSettings(database_url=f"sqlite+aiosqlite:///{file}")
    migrate(settings)
    console.print(f"Filling in {rows:,} rows …")
    fill(file, rows)
    commits = {reader: _Commits() for reader in _READERS}
    for turn in range(rounds):
        for reader, its in commits.items():
            with _beside(reader, settings):
                asyncio.run(its.go_on(settings, f"{turn} {reader}", seconds))
    table = Table(
        "beside",
        "commits",
        "of them failed",
        "p50 ms",
        "p99 ms",
        "worst ms",
        "worst against nobody",
        title=f"One commit on SQLite with {rows:,} rows",
    )
    alone = max(commits["nobody"].seconds)
    for reader, its in commits.items():
        cuts = statistics.quantiles(its.seconds, n=100)
        table.add_row(
            reader,
            f"{len(its.seconds):,}",
            str(its.failed),
            f"{cuts[49] * 1000:.1f}",
            f"{cuts[98] * 1000:.1f}",
            f"{max(its.seconds) * 1000:.1f}",
            f"{max(its.seconds) / alone:.1f}",
        )
    console.print(table)
