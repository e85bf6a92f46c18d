import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.common.clock import database_now
from services.common.database import Database
from services.common.objects import ObjectStore
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.people.adapters.rows import DatabaseStoredFaces
from services.people.adapters.server import SearchServer
from services.people.service.stored_faces import StoredFaces
from services.receiver.adapters.hashing import Argon2Hasher
from services.receiver.app import Receiver
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.colours import FakeRecogniser, count_colours, draw, encode
from services.redeemer.adapters.garbage import DatabaseDueGarbage
from services.redeemer.service.collecting import Collector
from services.testing.processes import Service

__all__ = ["FakeRecogniser", "count_colours", "draw", "encode"]

NOBODY = "127.0.0.1:1"


@pytest.fixture
async def recogniser() -> AsyncIterator[FakeRecogniser]:
    fake = FakeRecogniser()
    await fake.start()
    yield fake
    await fake.stop()


def make_settings(
    database: DatabaseSettings, store: ObjectStoreSettings, target: str = NOBODY, **more: Any
) -> ReceiverSettings:
    return ReceiverSettings(
        **{
            **database.model_dump(),
            **store.model_dump(),
            "face_recog_target": target,
            "face_recog_timeout_seconds": 5,
            "allowed_hosts": "receiver",
            "access": "open",
            "host": "127.0.0.1",
            **more,
        }
    )


class StoredFacesServer:
    """The service people, as far as it finds faces of a database by the recogniser's engine."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self._database = Database(settings)
        self._faces = StoredFaces(DatabaseStoredFaces(self._database, database_now))
        self._server = SearchServer(self._faces)
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
    notes = DatabaseDueGarbage(database, lambda: database_now() + later_ms)
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
    return make_settings(database_settings, folder_store_settings, recogniser.target)


@pytest.fixture
def plain_settings(
    sqlite_settings: DatabaseSettings,
    folder_store_settings: ObjectStoreSettings,
    recogniser: FakeRecogniser,
) -> ReceiverSettings:
    """Settings on SQLite, for what no database sees."""
    return make_settings(sqlite_settings, folder_store_settings, recogniser.target)


class Running:
    """A receiver in this process, and a client of it."""

    def __init__(self, settings: ReceiverSettings, hasher: Argon2Hasher | None = None) -> None:
        self.receiver = Receiver(settings, hasher)
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
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    del tmp_path  # asked for, as the database is there, to which they write at their end
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
            values = settings.model_dump(exclude_none=True, exclude={"host", "port", "probe_port"})
            return stack.enter_context(Service("services.receiver", next(logs), **values))

        yield begin
