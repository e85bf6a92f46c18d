"""A small HTTP load client: keep-alive connections, each sending its next request on an answer."""

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count

import orjson
import uvloop


@dataclass(frozen=True)
class Load:
    """What a run did: acknowledged paths a second, and latency of a request in milliseconds."""

    per_second: float
    p50_ms: float
    p99_ms: float


def _bodies(prefix: str, bulk: int) -> Iterator[tuple[str, bytes]]:
    """Yield the endpoint and body of one request after another, every path a new one."""
    numbers = count()
    while True:
        if bulk == 1:
            yield "/image/post", orjson.dumps({"path": f"{prefix}/{next(numbers)}.jpg"})
        else:
            paths = [{"path": f"{prefix}/{next(numbers)}.jpg"} for _ in range(bulk)]
            yield "/images/post", orjson.dumps({"paths": paths})


async def _client(
    port: int, key: str, bodies: Iterator[tuple[str, bytes]], until: float, latencies: list[float]
) -> None:
    shown = f"Authorization: Bearer {key}\r\n" if key else ""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        endpoint, body = next(bodies)
        start = time.perf_counter()
        writer.write(
            f"POST {endpoint} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"{shown}Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line[15:])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        answer = await reader.readexactly(length)
        if b" 202 " not in head[:16]:
            raise RuntimeError(f"{head[:40]!r} {answer[:300]!r}")
        latencies.append(time.perf_counter() - start)
    writer.close()


async def _run(  # noqa: PLR0917, the arguments of a process
    port: int, key: str, prefix: str, bulk: int, clients: int, seconds: float
) -> Load:
    latencies: list[float] = []
    bodies = _bodies(prefix, bulk)
    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(_client(port, key, bodies, start + seconds, latencies))
    elapsed = time.perf_counter() - start
    cuts = statistics.quantiles(latencies, n=100)
    return Load(len(latencies) * bulk / elapsed, cuts[49] * 1000, cuts[98] * 1000)


def _process(arguments: tuple[int, str, str, int, int, float]) -> Load:
    return uvloop.run(_run(*arguments))


def submit(
    port: int, prefix: str, *, bulk: int, clients: int, seconds: float, key: str = ""
) -> Load:
    """Load the receiver on the port from a process of its own.

    ``bulk`` is the number of paths in a request; 1 uses the single endpoint. ``key`` is what a
    receiver is shown that asks for one.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_process, (port, key, prefix, bulk, clients, seconds)).result()
