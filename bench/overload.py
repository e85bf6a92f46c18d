"""Submissions at the rate that the receiver can take, and at twice that: what is accepted, when."""

import asyncio
import multiprocessing
import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from bench import load
from bench.submissions import CLIENTS, receiver
from services.common.settings import DatabaseSettings
from services.migrations.__main__ import migrate
from services.receiver.settings import ReceiverSettings

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

    def p99(self, status: int, *, later: bool = False) -> float:
        """Return the 99th percentile, of all or the later half, in ms; NaN for fewer than two."""
        found = self.of.get(status, [])
        found = found[len(found) // 2 :] if later else found
        return statistics.quantiles(found, n=100)[98] if len(found) > 1 else float("nan")


class _Arrivals:
    """Requests that are sent when they are due, whether or not others are answered."""

    def __init__(self, port: int, prefix: str) -> None:
        self._port = port
        self._prefix = prefix
        self._idle: deque[_Connection] = deque()
        self._due: deque[tuple[int, float]] = deque()
        self._changed = asyncio.Event()
        self._lost = False
        self.answers = Answers()

    async def run(self, per_second: float, seconds: float) -> Answers:
        """Send at this rate for so long, and wait for the answers."""
        loop = asyncio.get_running_loop()
        connections = [
            (await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port))[1]
            for _ in range(_CONNECTIONS)
        ]
        start = time.perf_counter()
        sent = 0
        while (elapsed := time.perf_counter() - start) < seconds:
            while sent < elapsed * per_second:
                self._due.append((sent, start + sent / per_second))
                sent += 1
            self._send()
            await asyncio.sleep(_STEP_SECONDS)
        while self._due or len(self._idle) < len(connections):
            if self._lost:
                raise ConnectionError("the receiver closed a connection before its answer")
            self._changed.clear()
            await self._changed.wait()
        for one in connections:
            one.transport.close()
        return self.answers

    def is_idle(self, connection: "_Connection") -> None:
        """Take back a connection whose request is answered, or that is new."""
        self._idle.append(connection)
        self._send()
        self._changed.set()

    def is_lost(self) -> None:
        """Give up: a request on a connection that was closed has no answer."""
        self._lost = True
        self._changed.set()

    def _send(self) -> None:
        while self._due and self._idle:
            number, due = self._due.popleft()
            # Each in its turn: one that is not used for long is closed.
            self._idle.popleft().ask(orjson.dumps({"path": f"{self._prefix}/{number}.jpg"}), due)


class _Connection(asyncio.Protocol):
    """A keep-alive connection; streams would cost as much as what is measured."""

    transport: asyncio.Transport

    def __init__(self, arrivals: _Arrivals) -> None:
        self._arrivals = arrivals
        self._due = 0.0
        self._received = b""

    def ask(self, body: bytes, due: float) -> None:
        self._due = due
        self.transport.write(
            b"POST /image/post HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._arrivals.is_idle(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._arrivals.is_lost()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        head = head.lower()
        if len(body) < int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            return
        self._received = b""
        answers = self._arrivals.answers
        status = int(head[9:12])
        answers.of.setdefault(status, []).append((time.perf_counter() - self._due) * 1000)
        if status == _REFUSED and b"\r\nretry-after: " not in head:
            answers.without_retry_after += 1
        self._arrivals.is_idle(self)


def _process(port: int, prefix: str, per_second: float, seconds: float) -> Answers:
    return uvloop.run(_Arrivals(port, prefix).run(per_second, seconds))


def _arrive(*arguments: *tuple[int, str, float, float]) -> Answers:
    """Send from a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_process, arguments)


def run(console: Console, folder: Path, *, short: bool) -> list[Answers]:
    """Print the table: one run at the capacity, one at twice that."""
    seconds = 1.0 if short else 10.0
    url = f"sqlite+aiosqlite:///{folder / 'bench.db'}"
    migrate(DatabaseSettings(database_url=url))
    # As many clients as the receiver serves at once: more are refused, fewer leave it idle. Such
    # clients wait for each other's answers; what of their rate is accepted when requests come
    # whether or not others are answered is the capacity.
    clients = CLIENTS if short else ReceiverSettings.model_fields["max_in_flight"].default
    found = []
    with receiver(url, folder, MAX_IN_FLIGHT=str(clients)) as port:
        load.submit(port, "warm", bulk=1, clients=clients, seconds=seconds / 4)
        offered = load.submit(port, "most", bulk=1, clients=clients, seconds=seconds / 2).per_second
        most = _arrive(port, "capacity", offered, seconds / 2)
        capacity = most.count(_ACCEPTED) / (seconds / 2)
        table = Table(
            "offered",
            "requests/s",
            "accepted/s",
            "p99 ms",
            "against 1x",
            "2nd half",
            "429/s",
            "p99 ms of 429",
            title=f"Submissions beyond what the receiver takes ({capacity:,.0f}/s, SQLite)",
        )
        for times in (1, 2):
            answers = _arrive(port, f"times-{times}", times * capacity, seconds)
            found.append(answers)
            table.add_row(
                f"{times}x",
                f"{times * capacity:,.0f}",
                f"{answers.count(_ACCEPTED) / seconds:,.0f}",
                f"{answers.p99(_ACCEPTED):.0f}",
                f"{answers.p99(_ACCEPTED) / found[0].p99(_ACCEPTED):.2f}",
                f"{answers.p99(_ACCEPTED, later=True):.0f}",
                f"{answers.count(_REFUSED) / seconds:,.0f}",
                f"{answers.p99(_REFUSED):.0f}",
            )
    console.print(table)
    return found
