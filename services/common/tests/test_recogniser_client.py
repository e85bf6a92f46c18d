import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.common.errors import RecogniserBusyError, RecogniserUnavailableError
from services.common.facerecog import channel as channel_module
from services.common.facerecog import face_pb2, face_pb2_grpc
from services.common.facerecog.client import RecogniserClient
from services.common.faces import Box
from services.testing.waiting import eventually


class Replica(face_pb2_grpc.IdentifyServicer):
    """Counts what it is asked for."""

    def __init__(self) -> None:
        self.asked = 0
        self.port = 0
        self._health = health.aio.HealthServicer()

    async def Identify(self, request: Any, context: Any) -> face_pb2.IdentifyResponse:  # noqa: N802
        self.asked += 1
        if request.image_data == b"long":
            await asyncio.Event().wait()
        return face_pb2.IdentifyResponse(status=face_pb2.STATUS_OK)

    async def say(self, *, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        await self._health.set("", status.SERVING if serving else status.NOT_SERVING)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = grpc.aio.server(options=[("grpc.http2.min_ping_interval_without_data_ms", 100)])
        face_pb2_grpc.add_IdentifyServicer_to_server(self, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
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


async def test_a_new_client_does_not_wait_for_what_another_one_met() -> None:
    replica = Replica()
    await replica.say(serving=True)
    async with replica.running():
        before = RecogniserClient(f"127.0.0.1:{replica.port}", timeout=10)
        await before.identify(b"picture")
    with pytest.raises(RecogniserUnavailableError):
        await before.identify(b"picture")
    async with replica.running():
        client = RecogniserClient(before.target, timeout=10)
        await client.identify(b"picture")
        await client.close()
    await before.close()


class Between:
    """A connection that goes silent after so many chunks of the client, and says nothing of it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.heard = 0
        self.silent_from = float("inf")
        self._writers: list[asyncio.StreamWriter] = []
        self._connections: list[asyncio.Task[None]] = []

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._connections.append(asyncio.create_task(self._connect(reader, writer)))

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers.append(forth)
        await asyncio.gather(self._pass(reader, forth, 1), self._pass(back, writer, 0))

    async def close(self) -> None:
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        for writer in self._writers:
            writer.close()
            await writer.wait_closed()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: int
    ) -> None:
        while chunk := await reader.read(65536):
            self.heard += count
            if self.heard < self.silent_from:
                writer.write(chunk)
        writer.close()


async def test_a_connection_that_dies_silently_under_a_long_request_is_noticed(
    replicas: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "_KEEPALIVE_MS", 300)
    monkeypatch.setattr(channel_module, "_PING_TIMEOUT_MS", 300)
    between = Between(replicas[0].port)
    server = await asyncio.start_server(between.accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = RecogniserClient(f"127.0.0.1:{port}", timeout=600)
    await eventually(client.ping)
    # One more connection, accepted at the very end, would be nobody's to close.
    server.close()
    await server.wait_closed()
    long = asyncio.create_task(client.identify(b"long"))
    await eventually(lambda: replicas[0].asked)
    between.silent_from = between.heard + 6  # pings, which go on
    with pytest.raises(RecogniserUnavailableError):
        await asyncio.wait_for(long, 20)
    assert between.heard >= between.silent_from
    await client.close()
    await between.close()


async def test_a_replica_that_knows_no_boxes_is_told(client: RecogniserClient) -> None:
    assert await client.engine() is None
    assert await client.strangers() is None
    with pytest.raises(RecogniserBusyError, match="other boxes, as an older replica does"):
        await client.identify(b"picture", boxes=[Box(0, 0, 9, 9)])
