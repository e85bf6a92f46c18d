from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.common.facerecog import face_pb2, face_pb2_grpc
from services.common.facerecog.client import RecogniserClient, RecogniserUnavailableError
from services.testing.waiting import eventually


class Replica(face_pb2_grpc.IdentifyServicer):
    """Counts what it is asked for."""

    def __init__(self) -> None:
        self.asked = 0
        self.port = 0
        self._health = health.aio.HealthServicer()

    async def Identify(self, request: Any, context: Any) -> face_pb2.IdentifyResponse:  # noqa: N802
        self.asked += 1
        return face_pb2.IdentifyResponse(status=face_pb2.STATUS_OK)

    async def say(self, *, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        await self._health.set("", status.SERVING if serving else status.NOT_SERVING)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = grpc.aio.server()
        face_pb2_grpc.add_IdentifyServicer_to_server(self, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        self.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)


@pytest.fixture
async def replicas() -> AsyncIterator[list[Replica]]:
    async with AsyncExitStack() as stack:
        made = [Replica(), Replica()]
        for replica in made:
            await stack.enter_async_context(replica.running())
            await replica.say(serving=True)
        yield made


@pytest.fixture
async def client(replicas: list[Replica]) -> AsyncIterator[RecogniserClient]:
    addresses = ",".join(f"127.0.0.1:{replica.port}" for replica in replicas)
    made = RecogniserClient(f"ipv4:{addresses}", timeout=10)
    yield made
    await made.close()


async def test_requests_go_to_every_replica_that_serves(
    replicas: list[Replica], client: RecogniserClient
) -> None:
    async def both() -> bool:
        await client.identify(b"picture")
        return all(replica.asked for replica in replicas)

    await eventually(both)


async def test_a_replica_that_drains_is_left_alone(
    replicas: list[Replica], client: RecogniserClient
) -> None:
    assert await client.ping()
    leaving, staying = replicas
    await leaving.say(serving=False)

    async def settled() -> bool:
        before = leaving.asked
        for _ in range(4):
            await client.identify(b"picture")
        return leaving.asked == before

    await eventually(settled)
    asked = staying.asked
    for _ in range(50):
        assert await client.ping()
        await client.identify(b"picture")
    assert staying.asked == asked + 50

    await staying.say(serving=False)

    async def away() -> bool:
        return not await client.ping()

    await eventually(away)
    with pytest.raises(RecogniserUnavailableError):
        await client.identify(b"picture")
    await leaving.say(serving=True)
    await eventually(client.ping)
