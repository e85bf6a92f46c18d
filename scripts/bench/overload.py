"""Submissions at the rate that the receiver can take, and at twice that: what is accepted, when."""

import asyncio
import multiprocessing
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from scripts.bench import load
from scripts.bench.submissions import CLIENTS, receiver
from services.common.settings import DatabaseSettings
from services.migrations.__main__ import migrate

_ACCEPTED: Final = 202
_REFUSED: Final = 429
_STEP_SECONDS: Final = 0.005
_CONNECTIONS: Final = 800
"""Fewer than the receiver takes: what is due while all are in use waits, and that is counted."""


@dataclass
class Answers:
    """The milliseconds from when a request was due until its answer, by status."""

    of: dict[int, list[float]] = field(default_factory=dict)
    without_retry_after: int = 0

    def count(self, status: int) -> int:
        """Return how many had this status."""
        return len(self.of.get(status, ()))

    def p99(self, status: int) -> float:
        """Return the 99th percentile in milliseconds; NaN for fewer than two."""
        found = self.of.get(status, ())
        return statistics.quantiles(found, n=100)[98] if len(found) > 1 else float("nan")


class _Arrivals:
    """Requests that are sent when they are due, whether or not others are answered."""

    def __init__(self, port: int, prefix: str) -> None:
        self._port = port
        self._prefix = prefix
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._free = asyncio.Semaphore(_CONNECTIONS)
        self.answers = Answers()

    async def run(self, per_second: float, seconds: float) -> Answers:
        """Send at this rate for so long, and wait for the answers."""
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            sent = 0
            while (elapsed := time.perf_counter() - start) < seconds:
                while sent < elapsed * per_second:
                    group.create_task(self._send(sent, start + sent / per_second))
                    sent += 1
                await asyncio.sleep(_STEP_SECONDS)
        for _, writer in self._idle:
            writer.close()
        return self.answers

    async def _send(self, number: int, due: float) -> None:
        async with self._free:
            connection = (
                self._idle.pop()
                if self._idle
                else await asyncio.open_connection("127.0.0.1", self._port)
            )
            await self._ask(connection, number, due)
            self._idle.append(connection)

    async def _ask(
        self,
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        number: int,
        due: float,
    ) -> None:
        reader, writer = connection
        body = orjson.dumps({"path": f"{self._prefix}/{number}.jpg"})
        writer.write(
            b"POST /image/post HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        lines = head.split(b"\r\n")
        length = next(int(one[15:]) for one in lines if one.startswith(b"content-length:"))
        await reader.readexactly(length)
        status = int(head[9:12])
        self.answers.of.setdefault(status, []).append((time.perf_counter() - due) * 1000)
        if status == _REFUSED and b"\r\nretry-after: " not in head:
            self.answers.without_retry_after += 1


def _process(arguments: tuple[int, str, float, float]) -> Answers:
    port, prefix, per_second, seconds = arguments
    return uvloop.run(_Arrivals(port, prefix).run(per_second, seconds))


def run(console: Console, folder: Path, *, short: bool) -> list[Answers]:
    """Print the table: one run at the capacity, one at twice that."""
    seconds = 1.0 if short else 10.0
    url = f"sqlite+aiosqlite:///{folder / 'bench.db'}"
    migrate(DatabaseSettings(database_url=url))
    more = {"MAX_IN_FLIGHT": str(CLIENTS)} if short else {}
    found = []
    with receiver(url, folder, **more) as port:
        load.submit(port, "warm", bulk=1, clients=CLIENTS, seconds=seconds / 4)
        capacity = load.submit(
            port, "capacity", bulk=1, clients=CLIENTS, seconds=seconds / 2
        ).per_second
        table = Table(
            "offered",
            "requests/s",
            "accepted/s",
            "p99 ms",
            "against 1x",
            "429/s",
            "p99 ms of 429",
            title=f"Submissions beyond what the receiver takes ({capacity:,.0f}/s, SQLite)",
        )
        for times in (1, 2):
            arguments = (port, f"times-{times}", times * capacity, seconds)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                answers = pool.apply(_process, (arguments,))
            found.append(answers)
            table.add_row(
                f"{times}x",
                f"{times * capacity:,.0f}",
                f"{answers.count(_ACCEPTED) / seconds:,.0f}",
                f"{answers.p99(_ACCEPTED):.0f}",
                f"{answers.p99(_ACCEPTED) / found[0].p99(_ACCEPTED):.2f}",
                f"{answers.count(_REFUSED) / seconds:,.0f}",
                f"{answers.p99(_REFUSED):.0f}",
            )
    console.print(table)
    return found
