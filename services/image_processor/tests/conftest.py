import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from services.common import tables
from services.common.availability import AvailabilityLog
from services.common.database import Database
from services.common.facerecog.client import RecogniserClient
from services.image_processor.adapters.face_finder import GrpcFaceFinder
from services.image_processor.adapters.rows import DatabaseClaims
from services.image_processor.domain import RENEW_SECONDS, Claim
from services.image_processor.ports import PictureSource, Queue
from services.image_processor.service.breaker import Breaker
from services.image_processor.service.pictures import PictureRecognition
from services.image_processor.service.processing import Processor, pause_while_open
from services.image_processor.tests.fakes import FakePictures, FakeRecogniser, MemoryQueue
from services.image_processor.tests.virtual_time import DatabaseClock, VirtualTime
from services.testing.recogniser import RecogniserServer
from services.testing.waiting import eventually


class Images:
    """Pictures and their rows, as the receiver leaves them and as it sees them later."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = DatabaseClock()
        self.pictures = FakePictures()
        self.rows = DatabaseClaims(database, self.clock.in_database)

    async def submit(self, *contents: bytes) -> list[int]:
        """Store pictures and their pending rows; return the ids."""
        ids = []
        async with self.database.transaction() as connection:
            for content in contents:
                path = f"p{len(self.pictures.objects)}"
                self.pictures.objects[f"pictures/{path}"] = content
                inserted: Any = await connection.execute(
                    sa.insert(tables.images).values(
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

    async def claim(self, image_id: int) -> Claim:
        claim = await self.rows.claim(image_id)
        assert claim
        return claim

    async def row(self, image_id: int) -> Any:
        """Return the row; ``None`` when it was deleted."""
        async with self.database.reading() as connection:
            query = sa.select(tables.images).where(tables.images.c.id == image_id)
            return (await connection.execute(query)).one_or_none()

    async def statuses(self) -> list[str]:
        """Return every image's status, by id."""
        async with self.database.reading() as connection:
            query = sa.select(tables.images.c.status).order_by(tables.images.c.id)
            return list(await connection.scalars(query))

    async def reach(self, *statuses: str, seconds: float = 20) -> None:
        """Wait until these are the statuses of all images, by id."""

        async def reached() -> bool:
            assert await self.statuses() == list(statuses)
            return True

        await eventually(reached, seconds=seconds)

    async def faces(self, image_id: int) -> Sequence[Any]:
        """Return the image's faces."""
        async with self.database.reading() as connection:
            query = sa.select(tables.faces).where(tables.faces.c.image_id == image_id)
            return (await connection.execute(query.order_by("face_index"))).all()

    async def update(self, image_id: int, **values: object) -> None:
        """Change a row, as another service would."""
        async with self.database.transaction() as connection:
            which = tables.images.c.id == image_id
            await connection.execute(sa.update(tables.images).where(which).values(values))


class Processors:
    """Processors of images; all that they use but the rows is fake unless a test brings its own."""

    def __init__(self, images: Images) -> None:
        self.queue = MemoryQueue()
        self.recogniser = FakeRecogniser()
        self.time = VirtualTime()
        self.breakers: list[Breaker] = []
        self.breaker_states: list[float] = []
        self.stopping = asyncio.Event()
        self._images = images
        self._running: list[asyncio.Task[None]] = []

    def start(
        self,
        queue: Queue | None = None,
        *,
        client: RecogniserClient | None = None,
        pictures: PictureSource | None = None,
        concurrency: int = 4,
        renew_seconds: float = RENEW_SECONDS,
        grace_seconds: float = 20,
    ) -> None:
        """Start one more; ``client`` is that of a real recogniser."""
        used = queue or self.queue
        breaker = Breaker(
            (client or self.recogniser).ping,
            on_change=pause_while_open(used, self.breaker_states.append),
            time=self.time,
            random=lambda: 0.5,
        )
        self.breakers.append(breaker)
        database, store = AvailabilityLog("database"), AvailabilityLog("object store")
        recognition = PictureRecognition(
            pictures=pictures or self._images.pictures,
            faces=GrpcFaceFinder(client) if client else self.recogniser,
            breaker=breaker,
            store=store,
        )
        processor = Processor(
            queue=used,
            rows=self._images.rows,
            recognition=recognition,
            breaker=breaker,
            database=database,
            store=store,
            concurrency=concurrency,
            renew_seconds=renew_seconds,
        )
        running = processor.run(self._told_to_stop(), grace_seconds=grace_seconds)
        self._running.append(asyncio.create_task(running))

    async def _told_to_stop(self) -> None:
        await self.stopping.wait()

    async def stop(self) -> None:
        """Drain all of them."""
        self.stopping.set()
        await asyncio.gather(*self._running)
        for breaker in self.breakers:
            await breaker.close()


@pytest.fixture
def images(database: Database) -> Images:
    return Images(database)


@pytest.fixture
async def processors(images: Images) -> AsyncIterator[Processors]:
    made = Processors(images)
    yield made
    await made.stop()


@pytest.fixture
async def recogniser_server() -> AsyncIterator[RecogniserServer]:
    server = RecogniserServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def recogniser_client(recogniser_server: RecogniserServer) -> AsyncIterator[RecogniserClient]:
    client = RecogniserClient(recogniser_server.target, timeout=10)
    yield client
    await client.close()
