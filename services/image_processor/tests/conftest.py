"""Fakes of the ports, and real counterparts that behave the same, told by a picture's content."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa

from services.common.database import Database
from services.common.facerecog.client import (
    RecogniserBusyError,
    RecogniserFailedError,
    RecogniserTimeoutError,
    RecogniserUnavailableError,
)
from services.common.logs import Outage
from services.common.objects import (
    ObjectNotFoundError,
    ObjectRefusedError,
    ObjectStoreUnavailableError,
)
from services.common.tables import faces, images
from services.image_processor.adapters.rows import DatabaseRows
from services.image_processor.breaker import Breaker
from services.image_processor.domain import Processed, Rejected
from services.image_processor.service import Processor, Queue, pause_while_open
from services.testing.recogniser import TWO_FACES, RecogniserServer


class ManualClock:
    """Milliseconds since the epoch that only tests move."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        return self.now

    def in_database(self) -> sa.ColumnElement[int]:
        return sa.literal(self.now, sa.BigInteger())

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1000)


class VirtualTime:
    """A monotonic clock whose sleepers wake when a test advances it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        sleeper = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, sleeper))
        await sleeper

    async def advance(self, seconds: float) -> None:
        """Let time pass, and everything happen that it brings about."""
        await settle()
        end = self.now + seconds
        while due := sorted(
            (entry for entry in self._sleepers if entry[0] <= end), key=lambda entry: entry[0]
        ):
            entry = due[0]
            self._sleepers.remove(entry)
            self.now = entry[0]
            if not entry[1].done():
                entry[1].set_result(None)
            await settle()
        self.now = end


async def settle() -> None:
    """Run everything that can run without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)


class MemoryRing:
    def __init__(self, queue: "MemoryQueue", image_id: int) -> None:
        self._queue = queue
        self.image_id = image_id

    def touch(self) -> None:
        self._queue.touched.append(self.image_id)

    def finish(self) -> None:
        self._queue.taken.remove(self)
        self._queue.finished.append(self.image_id)

    def requeue(self, delay: float) -> None:
        self._queue.taken.remove(self)
        self._queue.requeued.append(self.image_id)
        asyncio.get_running_loop().call_later(delay, self._queue.put, self.image_id)


class Backlog(deque[int]):
    """Rings that wait, and who waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[asyncio.Event] = []


class MemoryQueue:
    """The queue port in memory; several may share a backlog."""

    def __init__(self, backlog: Backlog | None = None) -> None:
        self.ids = Backlog() if backlog is None else backlog
        self.taken: list[MemoryRing] = []
        self.finished: list[int] = []
        self.requeued: list[int] = []
        self.touched: list[int] = []
        self.paused = False
        self.in_flight = 0
        self._stopped = False
        self._changed = asyncio.Event()
        self.ids.listeners.append(self._changed)

    def put(self, image_id: int) -> None:
        self.ids.append(image_id)
        for listener in self.ids.listeners:
            listener.set()

    async def take(self) -> MemoryRing | None:
        while not self._stopped:
            if self.ids and not self.paused:
                ring = MemoryRing(self, self.ids.popleft())
                self.taken.append(ring)
                return ring
            self._changed.clear()
            await self._changed.wait()
        return None

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self._changed.set()

    def resize(self, in_flight: int) -> None:
        self.in_flight = in_flight

    def stop(self) -> None:
        self._stopped = True
        self._changed.set()

    async def close(self) -> None:
        self.stop()
        for ring in list(self.taken):
            ring.requeue(0)


class FakeRecogniser:
    """Answers by content, as ``RecogniserServer`` does. ``hang`` waits for :attr:`release`.

    ``up = False``: nobody there.
    ``hung``: it is there, but neither pictures nor pings are answered in time.
    """

    def __init__(self) -> None:
        self.up = True
        self.hung = False
        self.release = asyncio.Event()
        self.working = 0
        self.image_ids: list[int] = []

    async def identify(
        self, picture: bytes, image_id: int, on_long: Callable[[], None]
    ) -> Processed | Rejected:
        self.image_ids.append(image_id)
        if not self.up:
            raise RecogniserUnavailableError("nobody there")
        if self.hung:
            raise RecogniserTimeoutError("no answer")
        self.working += 1
        if picture == b"long":
            on_long()
        try:
            return await self._answer(picture)
        finally:
            self.working -= 1

    async def ping(self) -> bool:
        return self.up and not self.hung

    async def _answer(self, picture: bytes) -> Processed | Rejected:
        match picture:
            case b"hang" | b"long":
                await self.release.wait()
            case b"unreadable":
                return Rejected("it is no picture")
            case b"slow":
                raise RecogniserTimeoutError("no answer")
            case b"crash":
                raise RecogniserUnavailableError("connection reset")
            case b"busy":
                raise RecogniserBusyError("queue is full")
            case b"poison":
                raise RecogniserFailedError("the worker died")
            case b"empty":
                return Processed((), 100, 90, "test-1")
        return Processed(TWO_FACES, 100, 90, "test-1", calibration=3)


class FakePictures:
    """The object store port in memory; ``up = False``: it does not answer.

    What is in ``damaged`` cannot be read, although the store answers; what is in ``refused`` is no
    key for it.
    """

    def __init__(self) -> None:
        self.up = True
        self.objects: dict[str, bytes] = {}
        self.damaged: set[str] = set()
        self.refused: set[str] = set()

    async def check(self) -> None:
        if not self.up:
            raise ObjectStoreUnavailableError("no answer")

    async def get_tagged(self, key: str, *, max_bytes: int | None = None) -> tuple[bytes, str]:
        await self.check()
        if key in self.damaged:
            raise ObjectStoreUnavailableError("input/output error")
        if key in self.refused:
            raise ObjectRefusedError(f"{key}: your key is too long")
        tag = await self.tag(key)
        if tag is None:
            raise ObjectNotFoundError(key)
        return self.objects[key], tag

    async def tag(self, key: str) -> str | None:
        await self.check()
        return repr(self.objects[key]) if key in self.objects else None


@dataclass
class Bench:
    """A processor on a real database with everything else faked, unless replaced."""

    database: Database
    clock: ManualClock = field(default_factory=ManualClock)
    time: VirtualTime = field(default_factory=VirtualTime)
    pictures: FakePictures = field(default_factory=FakePictures)
    recogniser: Any = field(default_factory=FakeRecogniser)
    queue: Any = field(default_factory=MemoryQueue)
    ping: Callable[[], Awaitable[bool]] | None = None
    states: list[float] = field(default_factory=list)
    concurrency: int = 4
    renew_seconds: float = 10.0
    grace_seconds: float = 20.0

    def __post_init__(self) -> None:
        self.rows = DatabaseRows(self.database, self.clock.in_database)
        self.stopping = asyncio.Event()
        self.running: list[asyncio.Task[None]] = []
        self.breakers: list[Breaker] = []

    def start(self, queue: Queue | None = None) -> None:
        """Start one more processor."""
        used = queue or self.queue
        breaker = Breaker(
            self.ping or self.recogniser.ping,
            on_change=pause_while_open(used, self.states.append),
            time=self.time,
            random=lambda: 0.5,
        )
        self.breakers.append(breaker)
        processor = Processor(
            rows=self.rows,
            pictures=self.pictures,
            recogniser=self.recogniser,
            queue=used,
            breaker=breaker,
            database=Outage("database"),
            concurrency=self.concurrency,
            renew_seconds=self.renew_seconds,
        )
        self.running.append(
            asyncio.create_task(
                processor.run(self._told_to_stop(), grace_seconds=self.grace_seconds)
            )
        )

    async def _told_to_stop(self) -> None:
        await self.stopping.wait()

    async def stop(self) -> None:
        """Drain every processor."""
        self.stopping.set()
        await asyncio.gather(*self.running)
        for breaker in self.breakers:
            await breaker.close()

    async def submit(self, *contents: bytes) -> list[int]:
        """Store pictures and their pending rows, as the receiver would; return the ids."""
        ids = []
        async with self.database.transaction() as connection:
            for content in contents:
                path = f"p{len(self.pictures.objects)}"
                self.pictures.objects[f"pictures/{path}"] = content
                inserted: Any = await connection.execute(
                    sa.insert(images).values(
                        path=path,
                        name=path,
                        status="pending",
                        attempt=0,
                        due_at=self.clock() + 10_000,
                        created_at=self.clock(),
                        updated_at=self.clock(),
                    )
                )
                ids.append(int(inserted.inserted_primary_key[0]))
        return ids

    async def row(self, image_id: int) -> Any:
        """Return the row; ``None`` when it was deleted."""
        async with self.database.reading() as connection:
            query = sa.select(images).where(images.c.id == image_id)
            return (await connection.execute(query)).one_or_none()

    async def statuses(self) -> list[str]:
        """Return every image's status, by id."""
        async with self.database.reading() as connection:
            return list(await connection.scalars(sa.select(images.c.status).order_by(images.c.id)))

    async def faces(self, image_id: int) -> Sequence[Any]:
        """Return the image's faces."""
        async with self.database.reading() as connection:
            query = sa.select(faces).where(faces.c.image_id == image_id).order_by("face_index")
            return (await connection.execute(query)).all()

    async def update(self, image_id: int, **values: object) -> None:
        """Change a row, as another service would."""
        async with self.database.transaction() as connection:
            await connection.execute(
                sa.update(images).where(images.c.id == image_id).values(values)
            )


@pytest.fixture
async def bench(database: Database) -> AsyncIterator[Bench]:
    made = Bench(database)
    yield made
    await made.stop()


@pytest.fixture
def bench_of() -> type[Bench]:
    return Bench


@pytest.fixture
def virtual_time() -> VirtualTime:
    return VirtualTime()


@pytest.fixture
async def recogniser_server() -> AsyncIterator[RecogniserServer]:
    server = RecogniserServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def fake_recogniser() -> FakeRecogniser:
    return FakeRecogniser()


@pytest.fixture
def memory_queues() -> Callable[[], MemoryQueue]:
    """Make queues that share one backlog."""
    backlog = Backlog()
    return lambda: MemoryQueue(backlog)
