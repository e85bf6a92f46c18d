import asyncio
import contextlib
import io
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from PIL import Image, UnidentifiedImageError

from services.common.clock import database_now
from services.common.database import Database
from services.common.facerecog import face_pb2, face_pb2_grpc
from services.common.objects import ObjectStore
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.people.adapters.index import ExactIndex
from services.people.adapters.rows import DatabaseRows as PeopleRows
from services.people.adapters.server import Server
from services.people.service import StoredFaces
from services.receiver.app import Receiver
from services.receiver.settings import ReceiverSettings
from services.redeemer.adapters import DatabaseGarbage
from services.redeemer.collecting import Collector
from services.testing.processes import Service

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def draw(*squares: tuple[str, tuple[int, int, int, int]], size: tuple[int, int]) -> Image.Image:
    image = Image.new("RGB", size, "white")
    for colour, box in squares:
        image.paste(COLOURS[colour], box)
    return image


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    output = io.BytesIO()
    image.save(output, kind, **options)
    return output.getvalue()


def count_colours(content: bytes) -> int:
    """Count the colours of which a picture has at least ten pixels, as JPEG blurs them."""
    pixels = np.array(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    return sum(
        int((abs(pixels - colour).max(axis=2) < 60).sum()) >= 10 for colour in COLOURS.values()
    )


class FakeRecogniser(face_pb2_grpc.IdentifyServicer, face_pb2_grpc.HealthCheckServicer):
    """A gRPC server for which each colour in a picture is such a ``face``."""

    def __init__(self) -> None:
        self.asked = 0
        self.engine = "fake"
        self.persons: list[str] = []
        self.face = face_pb2.Face()  # as an older face_recog answers
        self.was_asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", 30_000_000)])
        face_pb2_grpc.add_IdentifyServicer_to_server(self, self._server)
        face_pb2_grpc.add_HealthCheckServicer_to_server(self, self._server)
        servicer = health.aio.HealthServicer()
        await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    async def Identify(self, request: Any, context: Any) -> face_pb2.IdentifyResponse:  # noqa: N802
        self.asked += 1
        self.persons.append(request.person)
        self.was_asked.set()
        await self.may_answer.wait()
        try:
            faces = count_colours(request.image_data)
        except (UnidentifiedImageError, OSError):
            return face_pb2.IdentifyResponse(
                status=face_pb2.STATUS_UNREADABLE, reason="this is no picture"
            )
        found = [self.face] * faces
        if request.boxes:
            found = [face_pb2.Face(box=box) for box in request.boxes]
            for one in found:
                one.MergeFrom(self.face)
        return face_pb2.IdentifyResponse(status=face_pb2.STATUS_OK, faces=found, engine=self.engine)

    async def HealthCheck(  # noqa: N802
        self,
        request: face_pb2.Empty,
        context: Any,
    ) -> face_pb2.HealthCheckResponse:
        return face_pb2.HealthCheckResponse(
            ready=True, engine=self.engine, strangers_product=0.9, strangers_decade=0.02
        )


@pytest.fixture
async def recogniser() -> AsyncIterator[FakeRecogniser]:
    fake = FakeRecogniser()
    await fake.start()
    yield fake
    await fake.stop()


def make_settings(
    database: DatabaseSettings, store: ObjectStoreSettings, port: int, **more: Any
) -> ReceiverSettings:
    return ReceiverSettings(
        **{
            **database.model_dump(),
            **store.model_dump(),
            "face_recog_target": f"127.0.0.1:{port}",
            "face_recog_timeout_seconds": 5,
            **more,
        }
    )


class StoredFacesServer:
    """The service people, as far as it finds faces of a database by the recogniser's engine."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self._database = Database(settings)
        self._faces = StoredFaces(PeopleRows(self._database, database_now), ExactIndex())
        self._server = Server(self._faces)
        self.target = ""

    async def start(self) -> None:
        await self.follow()
        self.target = f"127.0.0.1:{await self._server.start('127.0.0.1', 0)}"
        await self._server.set_serving(serving=True)

    async def follow(self) -> None:
        await self._faces.follow()

    async def stop(self) -> None:
        await self._server.stop()
        await self._database.close()


async def collect(settings: ReceiverSettings, *, later_ms: int = 0) -> None:
    """Remove the objects that no row names, as the redeemer does so much later."""
    database = Database(settings)
    notes = DatabaseGarbage(database, lambda: database_now() + later_ms)
    await Collector(garbage=notes, objects=ObjectStore(settings)).collect()
    await database.close()


Configure = Callable[..., ReceiverSettings]


@pytest.fixture
def configure() -> Configure:
    return make_settings


@pytest.fixture
def settings(
    database_settings: DatabaseSettings,
    folder_store_settings: ObjectStoreSettings,
    recogniser: FakeRecogniser,
) -> ReceiverSettings:
    """Settings on SQLite, and once more on MariaDB."""
    return make_settings(database_settings, folder_store_settings, recogniser.port)


@pytest.fixture
def plain_settings(
    sqlite_settings: DatabaseSettings,
    folder_store_settings: ObjectStoreSettings,
    recogniser: FakeRecogniser,
) -> ReceiverSettings:
    """Settings on SQLite, for what no database sees."""
    return make_settings(sqlite_settings, folder_store_settings, recogniser.port)


class Running:
    """A receiver in this process, and a client of it."""

    def __init__(self, settings: ReceiverSettings) -> None:
        self.receiver = Receiver(settings)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.receiver.app, raise_app_exceptions=False),
            base_url="http://receiver",
            timeout=60,
        )

    async def close(self) -> None:
        await self.client.aclose()
        await self.receiver.close()


Start = Callable[[ReceiverSettings], Running]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    started: list[Running] = []

    def begin(settings: ReceiverSettings) -> Running:
        started.append(Running(settings))
        return started[-1]

    yield begin
    for one in started:
        await one.close()


@pytest.fixture
def client(start: Start, settings: ReceiverSettings) -> httpx.AsyncClient:
    return start(settings).client


@pytest.fixture
def plain(start: Start, plain_settings: ReceiverSettings) -> httpx.AsyncClient:
    return start(plain_settings).client


Launch = Callable[[ReceiverSettings], Service]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    logs = (tmp_path / f"receiver-{number}.log" for number in itertools.count())
    with contextlib.ExitStack() as stack:

        def begin(settings: ReceiverSettings) -> Service:
            values = settings.model_dump(exclude_none=True, exclude={"host", "port"})
            return stack.enter_context(Service("services.receiver", next(logs), **values))

        yield begin
