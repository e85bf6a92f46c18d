"""What callers get of the real gRPC server."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.errors import (
    OtherEngineError,
    RefusedError,
    StoredFacesAwayError,
    StoredFacesBusyError,
)
from services.common.facerecog import face_pb2, face_pb2_grpc
from services.common.facerecog.stored_faces import StoredFacesClient
from services.people.adapters.server import AT_ONCE, SearchServer
from services.people.service.stored_faces import StoredFaces
from services.people.tests.world import ENGINE, World, encoding
from services.testing.waiting import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING


class Bench:
    """The stored faces of a world, and who answers for them."""

    def __init__(self, world: World) -> None:
        self.faces = StoredFaces(world.rows())
        self.server = SearchServer(self.faces)
        self.target = ""

    async def start(self) -> None:
        self.target = f"127.0.0.1:{await self.server.start('127.0.0.1', 0)}"
        await self.server.set_serving(serving=True)


@pytest.fixture
async def bench(world: World) -> AsyncIterator[Bench]:
    one = Bench(world)
    await one.start()
    yield one
    await one.server.stop()


@pytest.fixture
async def client(bench: Bench) -> AsyncIterator[StoredFacesClient]:
    one = StoredFacesClient(bench.target)
    yield one
    await one.close()


async def test_the_nearest_come_first(
    world: World, bench: Bench, client: StoredFacesClient
) -> None:
    with pytest.raises(StoredFacesAwayError, match="still being loaded"):
        await client.find(ENGINE.name, encoding("Ada"), 2)
    first = await world.picture(encoding("Bob"), encoding("Ada", nth=1))
    second = await world.picture(encoding("Ada"))
    await bench.faces.follow()
    found = await client.find(ENGINE.name, encoding("Ada"), 2)
    assert [(one.image_id, one.face_index) for one in found] == [(second, 0), (first, 1)]
    assert [one.distance for one in found] == pytest.approx([0, 0.07], abs=0.01)
    with pytest.raises(OtherEngineError, match="not of 'other'"):
        await client.find("other", encoding("Ada"), 2)


@pytest.mark.parametrize(
    ("content", "limit", "message"),
    [
        (b"12345", 2, "5 bytes are no encoding"),
        (bytes(512), 2, "nothing but 0"),
        (encoding("Ada")[:8], 2, "2 numbers, where stored ones have 128"),
        (encoding("Ada"), 0, "a limit of 0"),
        (encoding("Ada"), 1_001, "a limit of 1001"),
    ],
)
async def test_what_cannot_be_looked_for_is_refused(
    world: World,
    bench: Bench,
    client: StoredFacesClient,
    *,
    content: bytes,
    limit: int,
    message: str,
) -> None:
    await world.picture(encoding("Ada"))
    await bench.faces.follow()
    with pytest.raises(RefusedError, match=f"INVALID_ARGUMENT: .*{message}"):
        await client.find(ENGINE.name, content, limit)


async def test_too_many_at_once_are_refused_and_the_others_answered(
    world: World, bench: Bench, client: StoredFacesClient
) -> None:
    await world.picture(encoding("Ada"))
    await bench.faces.follow()
    async with bench.faces._turn:  # as while some are loaded
        asked = [
            asyncio.create_task(client.find(ENGINE.name, encoding("Ada"), 1))
            for _ in range(AT_ONCE + 3)
        ]
        await eventually(lambda: sum(one.done() for one in asked) == 3)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    refused = [one for one in answers if isinstance(one, StoredFacesBusyError)]
    assert len(refused) == 3
    assert len(await client.find(ENGINE.name, encoding("Ada"), 1)) == 1


async def test_who_drains_answers_until_it_stops(world: World, bench: Bench) -> None:
    await world.picture(encoding("Ada"))
    await bench.faces.follow()
    async with grpc.aio.insecure_channel(bench.target) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        stub: Any = face_pb2_grpc.StoredFacesStub(channel)
        of_it = health_pb2.HealthCheckRequest(service="facerecog.StoredFaces")
        assert (await health.Check(of_it)).status == SERVING
        await bench.server.drain()
        assert (await health.Check(of_it)).status != SERVING
        request = face_pb2.FindRequest(engine=ENGINE.name, encoding=encoding("Ada"), limit=1)
        async with bench.faces._turn:
            last = asyncio.ensure_future(stub.Find(request))
            await eventually(lambda: bench.faces._turn._waiters)
            stopping = asyncio.create_task(bench.server.stop())
            await asyncio.sleep(0)
        assert len((await last).faces) == 1
        await stopping
