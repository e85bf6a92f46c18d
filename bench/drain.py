"""A backlog whose rings were all lost against one whose rings are there, and the page meanwhile."""

import asyncio
import contextlib
import multiprocessing
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from services.common.claims import RING_AFTER_MS
from services.common.database import Database
from services.common.image_states import FINAL, Status
from services.common.nsqd import NsqDoorbell
from services.common.settings import DatabaseSettings
from services.common.tables import images
from services.migrations.__main__ import migrate
from services.testing.processes import Service
from services.testing.recogniser import PictureContent, RecogniserServer
from services.testing.servers import MariaDb, Nsqd, Nsqlookupd

_ROWS: Final = 20_000
_PROCESSORS: Final = 2
_RINGS: Final = 1_000
"""As many as one bulk submission announces at once."""

_POLL_SECONDS: Final = 0.1
_OPEN: Final = frozenset(Status) - FINAL

_client: Final = httpx.Client(timeout=30, trust_env=False)


@dataclass(frozen=True)
class _Drained:
    """Rows a second, and the milliseconds of each request meanwhile, by address."""

    per_second: float
    latencies: Mapping[str, list[float]]


@dataclass(frozen=True)
class _Stack:
    """What the backlog is put into, and who else asks for it."""

    database: Database
    doorbell: NsqDoorbell
    pictures: Path
    urls: tuple[str, ...]
    asking: ProcessPoolExecutor

    async def ask(self, latencies: dict[str, list[float]]) -> None:
        """Ask each address once, from a process that does nothing else."""
        loop = asyncio.get_running_loop()
        for url in self.urls:
            took = await loop.run_in_executor(self.asking, _get, url)
            latencies.setdefault(url, []).append(took)

    async def drain(self, prefix: str, rows: int, *, notified: bool) -> _Drained:
        """Put in so many rows that are due, or notified of, and wait until all are processed."""
        for number in range(1, rows + 1):
            (self.pictures / f"{prefix}{number}").write_bytes(PictureContent.TWO_FACES)
        now = time.time_ns() // 1_000_000
        due = now + RING_AFTER_MS if notified else now
        latencies: dict[str, list[float]] = {}
        start = time.perf_counter()
        async with self.database.transaction() as connection:
            await connection.exec_driver_sql(
                "INSERT INTO images (path, name, status, attempt, due_at, created_at, updated_at)"
                f" SELECT CONCAT('{prefix}', seq), 'p', 'pending', 0, {due}, {now}, {now}"
                f" FROM seq_1_to_{rows}"
            )
        if notified:
            async with self.database.reading() as connection:
                waiting = images.c.status == Status.PENDING
                ids = list(await connection.scalars(sa.select(images.c.id).where(waiting)))
            for first in range(0, rows, _RINGS):
                await self.doorbell.ring(ids[first : first + _RINGS])
        while await self._count(*_OPEN):
            await self.ask(latencies)
            await asyncio.sleep(_POLL_SECONDS)
        elapsed = time.perf_counter() - start
        if given_up := await self._count(Status.REJECTED, Status.DEAD):
            raise SystemExit(f"drain: {given_up} rows were given up")
        return _Drained(rows / elapsed, latencies)

    async def _count(self, *statuses: Status) -> int:
        query = sa.select(sa.func.count()).where(images.c.status.in_(statuses))
        async with self.database.reading() as connection:
            return int(await connection.scalar(query) or 0)


def _get(url: str) -> float:
    start = time.perf_counter()
    answer = _client.get(url)
    if not answer.is_success:  # httpx's own error does not come back from another process
        raise RuntimeError(f"{url}: {answer.status_code} {answer.text[:300]}")
    return (time.perf_counter() - start) * 1000


@contextlib.contextmanager
def _services(folder: Path, environment: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """Run the services and yield the addresses that people ask, of the API and of the page."""
    with contextlib.ExitStack() as stack:

        def start(name: str, number: int = 1, **more: str) -> Service:
            log = folder / f"{name}-{number}.log"
            return stack.enter_context(Service(f"services.{name}", log, **environment, **more))

        for number in range(_PROCESSORS):
            start("image_processor", number)
        start("redeemer")
        receiver = start("receiver")
        frontend = start("frontend", RECEIVER_URL=receiver.url)
        yield f"{receiver.url}/images", f"{frontend.url}/"


@contextlib.asynccontextmanager
async def _stack(folder: Path) -> AsyncIterator[_Stack]:
    """Start everything; the recogniser answers at once, from this process."""
    pictures = folder / "store" / "pictures"
    pictures.mkdir(parents=True)
    async with contextlib.AsyncExitStack() as stack:
        mariadb = MariaDb(folder).start()
        stack.callback(mariadb.stop)
        nsqlookupd = Nsqlookupd(folder).start()
        stack.callback(nsqlookupd.stop)
        nsqd = Nsqd(folder, nsqlookupd).start()
        stack.callback(nsqd.stop)
        settings = DatabaseSettings(database_url=mariadb.url("bench"))
        database = Database(DatabaseSettings(database_url=mariadb.url("mysql")))
        async with database.transaction() as connection:
            await connection.exec_driver_sql("CREATE DATABASE bench CHARACTER SET utf8mb4")
        await database.close()
        await asyncio.to_thread(migrate, settings)
        database = Database(settings)
        stack.push_async_callback(database.close)
        doorbell = NsqDoorbell(nsqd.http_url)
        stack.push_async_callback(doorbell.close)
        recogniser = RecogniserServer()
        await recogniser.start()
        stack.push_async_callback(recogniser.stop)
        asking = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        stack.enter_context(asking)
        environment = {
            "DATABASE_URL": settings.database_url,
            "OBJECT_STORE_URL": (folder / "store").as_uri(),
            "FACE_RECOG_TARGET": recogniser.target,
            "NSQD_URL": nsqd.http_url,
            "NSQLOOKUPD_URLS": f'["{nsqlookupd.http_url}"]',
            "LOG_LEVEL": "INFO",
        }
        urls = stack.enter_context(_services(folder, environment))
        yield _Stack(database, doorbell, pictures, urls, asking)


async def _measure(console: Console, folder: Path, rows: int) -> None:
    async with _stack(folder) as stack:
        console.print("Warming up …")
        await stack.drain("warm", min(rows, _RINGS), notified=True)
        console.print(f"{rows:,} rows with their rings …")
        there = await stack.drain("there", rows, notified=True)
        rest: dict[str, list[float]] = {}
        for _ in range(max(len(found) for found in there.latencies.values())):
            await stack.ask(rest)
            await asyncio.sleep(_POLL_SECONDS)
        console.print(f"{rows:,} rows whose rings were lost …")
        lost = await stack.drain("lost", rows, notified=False)
    table = Table(
        "rings",
        "rows/s",
        "ratio",
        "GET /images, ms",
        "against rest",
        "page, ms",
        "against rest",
        title=f"A backlog of {rows:,} rows, {_PROCESSORS} processors (medians of latency)",
    )
    at_rest = _Drained(float("nan"), rest)
    for name, found in (("at rest", at_rest), ("there", there), ("lost", lost)):
        cells = []
        for url in stack.urls:
            median = statistics.median(found.latencies[url])
            cells += [f"{median:.1f}", f"{median / statistics.median(rest[url]):.2f}"]
        rates = (
            ("", "")
            if found is at_rest
            else (f"{found.per_second:,.0f}", f"{found.per_second / there.per_second:.2f}")
        )
        table.add_row(name, *rates, *cells)
    console.print(table)


def run(console: Console, folder: Path, *, short: bool) -> None:
    """Print the table; the drains are one after the other, on the same processes."""
    asyncio.run(_measure(console, folder, 300 if short else _ROWS))
