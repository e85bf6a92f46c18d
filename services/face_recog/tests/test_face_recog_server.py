import asyncio
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_tools import protoc
from PIL import Image

from services.common.errors import (
    ObjectRefusedError,
    ObjectStoreUnavailableError,
    RecogniserBusyError,
    RecogniserFailedError,
    RecogniserUnavailableError,
)
from services.common.facerecog import face_pb2, face_pb2_grpc
from services.common.facerecog.client import RecogniserClient
from services.common.faces import Box, Likely
from services.common.picture_formats import MAX_PICTURE_BYTES
from services.common.quality import Quality
from services.common.strangers import PairsOfStrangers
from services.face_recog.adapters.server import FaceRecogServer, _response
from services.face_recog.app import announce
from services.face_recog.domain.engines import Engine
from services.face_recog.domain.errors import NotReadyError, WrongEngineError
from services.face_recog.domain.faces import DetectedFace
from services.face_recog.domain.known_people import DEFAULT_TOLERANCE
from services.face_recog.domain.matching import Match, Outcome
from services.face_recog.domain.parts import KeptPart
from services.face_recog.service.identifying import Identification, IdentificationRequest, NamedFace
from services.testing.damaged_pictures import save
from services.testing.waiting import eventually

OLD_PROTO = """
syntax = "proto3";
package facerecog;
service Identify { rpc Identify(IdentifyRequest) returns (IdentifyResponse) {} }
service HealthCheck { rpc HealthCheck(Empty) returns (HealthCheckResponse) {} }
message IdentifyRequest { string image_path = 1; }
message IdentifyResponse { string image_name = 1; }
message Empty {}
message HealthCheckResponse { bool ready = 1; }
"""

StartServer = Callable[..., Any]

DECIDER: Any = SimpleNamespace(engine=Engine("x", 128), strangers=PairsOfStrangers(0.5, 0.25))
"""Of a server that is asked for nothing else."""


@asynccontextmanager
async def client_of(server: Any) -> AsyncIterator[RecogniserClient]:
    client = RecogniserClient(server.target, timeout=60)
    await until(client.ping)
    yield client
    await client.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110, the condition is another process's
            await asyncio.sleep(0.02)


async def until_metric(server: Any, name: str, value: float) -> None:
    async def reached() -> bool:
        return bool(await asyncio.to_thread(server.metric, name) == value)

    await until(reached)


async def test_32_clients_and_500_requests_all_get_the_right_name(
    face_recog: StartServer, small_astronaut: bytes, small_hopper: bytes
) -> None:
    server = face_recog(QUEUE_SIZE="32")
    right = {small_astronaut: "Eileen Collins/a.png", small_hopper: "Grace Hopper/g.jpg"}
    pictures = [small_astronaut, small_hopper] * 250
    wrong: list[str] = []

    async def work(client: RecogniserClient) -> None:
        while pictures:
            picture = pictures.pop()
            answer = await client.identify(picture)
            if answer.image_name != right[picture]:
                wrong.append(answer.image_name)

    async with client_of(server) as first:
        clients = [RecogniserClient(server.target, timeout=60) for _ in range(31)]
        await asyncio.gather(*(work(client) for client in [first, *clients]))
        for client in clients:
            await client.close()
    assert not wrong
    assert server.metric('facestack_requests_total{operation="Identify/Identify"}') == 500
    assert server.metric('facestack_request_errors_total{operation="Identify/Identify"}') == 0
    assert server.metric('facestack_faces_total{result="known"}') == 500


async def test_an_old_client_still_works(
    face_recog: StartServer, small_hopper: bytes, tmp_path: Path
) -> None:
    (tmp_path / "face.proto").write_text(OLD_PROTO)
    compiled = tmp_path / "face.bin"
    assert protoc.main(["", f"-I{tmp_path}", f"--descriptor_set_out={compiled}", "face.proto"]) == 0
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes()).file:
        pool.Add(file)

    def message(name: str) -> Any:
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"facerecog.{name}"))

    server = face_recog()
    server.put("pictures/old/ü 1.jpg", small_hopper)
    async with client_of(server), grpc.aio.insecure_channel(server.target) as channel:
        identify: Any = channel.unary_unary(
            "/facerecog.Identify/Identify",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=message("IdentifyResponse").FromString,
        )
        check: Any = channel.unary_unary(
            "/facerecog.HealthCheck/HealthCheck",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=message("HealthCheckResponse").FromString,
        )
        request = message("IdentifyRequest")
        assert (await check(message("Empty")())).ready
        answer = await identify(request(image_path="old/ü 1.jpg"))
        assert answer.image_name == "Grace Hopper/g.jpg"
        assert (await identify(request(image_path="missing.jpg"))).image_name == "not_found"
        assert (await identify(request(image_path="../known_people"))).image_name == "not_found"
    # And a new client understands what an old server says.
    old = message("IdentifyResponse")(image_name="x.jpg").SerializeToString()
    assert face_pb2.IdentifyResponse.FromString(old).image_name == "x.jpg"


def huge_png() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 13000, 13000, 1, 0, 0, 0, 0)
    content = zlib.compress(bytes(13000 * 1626), 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", content)
        + chunk(b"IEND", b"")
    )


def peaks(server: Any) -> dict[int, int]:
    """The most memory that each process of the server has had, in bytes."""
    found = {}
    for pid in [server.pid, *(worker.pid for worker in server.workers())]:
        status = Path(f"/proc/{pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
        found[pid] = int(line.split()[1]) * 1024
    return found


async def test_a_huge_picture_is_refused_at_once_and_never_decoded(
    face_recog: StartServer, small_hopper: bytes
) -> None:
    server = face_recog(POOL_SIZE="1")
    content = huge_png()
    assert len(content) < 21_000
    async with client_of(server) as client, grpc.aio.insecure_channel(server.target) as channel:
        await client.identify(small_hopper)
        before = peaks(server)
        answer = await face_pb2_grpc.IdentifyStub(channel).Identify(
            face_pb2.IdentifyRequest(image_data=content), timeout=1, wait_for_ready=True
        )
        assert answer.status == face_pb2.STATUS_TOO_LARGE
        assert "13000 x 13000" in answer.reason
        assert (answer.width, answer.height) == (0, 0)
        after = peaks(server)
    assert after.keys() == before.keys()
    # Decoded it is 169 MB.
    assert sum(after.values()) - sum(before.values()) < 50_000_000


async def test_content_problems_are_answers_and_no_errors(
    face_recog: StartServer, astronaut: Image.Image
) -> None:
    server = face_recog()
    server.put("pictures/huge.bin", bytes(MAX_PICTURE_BYTES + 1))
    request = face_pb2.IdentifyRequest
    picture = save(astronaut, "PNG")
    async with client_of(server), grpc.aio.insecure_channel(server.target) as channel:
        identify = face_pb2_grpc.IdentifyStub(channel).Identify
        for asked, status in {
            request(image_data=huge_png()).SerializeToString(): face_pb2.STATUS_TOO_LARGE,
            request(image_path="huge.bin").SerializeToString(): face_pb2.STATUS_TOO_LARGE,
            request(image_path="no/where").SerializeToString(): face_pb2.STATUS_NOT_FOUND,
            request().SerializeToString(): face_pb2.STATUS_INVALID_REQUEST,
            request(image_path="../x").SerializeToString(): face_pb2.STATUS_INVALID_REQUEST,
            request(image_path="http://x/y").SerializeToString(): face_pb2.STATUS_INVALID_REQUEST,
            request(image_data=b"text").SerializeToString(): face_pb2.STATUS_UNREADABLE,
            request(image_data=save(astronaut)[:9000]).SerializeToString(): (
                face_pb2.STATUS_UNREADABLE
            ),
            **{
                request(image_data=picture, tolerance=tolerance).SerializeToString(): (
                    face_pb2.STATUS_INVALID_REQUEST
                )
                for tolerance in (0.0, -0.1, 1.1, float("nan"), float("inf"))
            },
        }.items():
            answer = await identify(request.FromString(asked))
            assert answer.status == status
            assert answer.image_name == "not_found"
            assert answer.reason
            assert answer.engine
    assert server.metric('facestack_request_errors_total{operation="Identify/Identify"}') == 0


async def test_the_answer_in_full(
    face_recog: StartServer,
    astronaut: Image.Image,
    hopper: Image.Image,
) -> None:
    server = face_recog()
    both = Image.new("RGB", (1024, 600), "gray")
    both.paste(astronaut, (0, 44))
    both.paste(hopper, (512, 0))
    picture = save(both, quality=95)
    async with client_of(server) as client, grpc.aio.insecure_channel(server.target) as channel:
        answer = await client.identify(picture, image_id=4711)
        assert answer.status == face_pb2.STATUS_OK
        assert (answer.width, answer.height) == (1024, 600)
        assert [face.candidates[0].person for face in answer.faces] == [
            "Grace Hopper",
            "Eileen Collins",
        ]
        first, second = answer.faces
        assert first.box.right - first.box.left > second.box.right - second.box.left
        assert second.detection_score > 0.4
        nearest = min(answer.faces, key=lambda face: face.candidates[0].distance)
        assert answer.image_name == nearest.candidates[0].image_name
        assert not any(face.ambiguous for face in answer.faces)
        assert {face.outcome for face in answer.faces} == {face_pb2.OUTCOME_NAMED}
        assert answer.calibration == 1

        encodings = [np.frombuffer(face.encoding, "<f4") for face in answer.faces]
        assert [encoding.size for encoding in encodings] == [128, 128]
        for face in answer.faces:
            assert face.candidates[0].HasField("likeness")
            assert not face.quality.HasField("flaw")
            assert face.quality.score > 0.8
            assert not face.HasField("like_person")
        for person, like in (("Grace Hopper", [True, False]), ("Nobody", [None, None])):
            held = await client.identify(picture, person=person)
            assert [
                face.like_person if face.HasField("like_person") else None for face in held.faces
            ] == like

        identify = face_pb2_grpc.IdentifyStub(channel).Identify
        largest = await identify(face_pb2.IdentifyRequest(image_data=picture, max_faces=1))
        assert [face.box for face in largest.faces] == [first.box]
        [again] = largest.faces
        assert again.encoding == first.encoding
        assert np.linalg.norm(encodings[0] - encodings[1]) > DEFAULT_TOLERANCE
        strict = await identify(face_pb2.IdentifyRequest(image_data=picture, tolerance=0.0001))
        assert len(strict.faces) == 2
        assert (strict.image_name, strict.calibration) == ("not_found", 0)
        wide = face_pb2.IdentifyRequest(image_data=picture, tolerance=1, max_candidates=1)
        widely = (await identify(wide)).faces
        assert [len(face.candidates) for face in widely] == [1, 1]
        assert not widely[0].candidates[0].HasField("likeness")
        nobody = save(Image.new("RGB", (300, 300), "gray"))
        empty = await client.identify(nobody)
        assert (empty.status, len(empty.faces)) == (face_pb2.STATUS_OK, 0)
        assert empty.image_name == "not_found"
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert [line.get("image_id") for line in lines if line["event"] == "identified"] == [
        4711,
        *[None] * 6,
    ]


async def test_known_people_follow_the_store(
    face_recog: StartServer,
    hopper: Image.Image,
    small_hopper: bytes,
) -> None:
    server = face_recog()
    async with client_of(server) as client:

        async def name() -> str:
            return (await client.identify(small_hopper)).image_name

        assert await name() == "Grace Hopper/g.jpg"
        (server.store / "known_people/Grace Hopper/g.jpg").unlink()

        async def is_unknown() -> bool:
            return await name() == "not_found"

        await until(is_unknown)
        server.put("known_people/Rear Admiral/new.webp", save(hopper, "WEBP"))

        async def is_renamed() -> bool:
            return await name() == "Rear Admiral/new.webp"

        await until(is_renamed)
        server.put("known_people/nobody/gray.jpg", save(Image.new("RGB", (99, 99), "gray")))
        await until_metric(server, "facestack_gallery_skipped_pictures", 1)
        assert "it shows no face" in server.log.read_text()
        assert await name() == "Rear Admiral/new.webp"

        async def is_kept() -> bool:
            """Whether that of all known pictures is kept, and nothing of what was removed."""
            files = (server.store / "encodings").glob("*/??")
            parts = [KeptPart.unpack(file.read_bytes()) for file in files]
            return {key for part in parts for key in part.known} == {
                "known_people/Eileen Collins/a.png",
                "known_people/Rear Admiral/new.webp",
                "known_people/nobody/gray.jpg",
            }

        await until(is_kept)


async def test_a_worker_killed_in_mid_request(face_recog: StartServer, small_hopper: bytes) -> None:
    server = face_recog()
    async with client_of(server) as client:
        victim = server.workers()[0]
        victim.suspend()
        requests = [asyncio.create_task(client.identify(small_hopper)) for _ in range(8)]
        await until_metric(server, 'facestack_requests_total{operation="Identify/Identify"}', 7)
        victim.kill()
        results = await asyncio.gather(*requests, return_exceptions=True)
        faults = [result for result in results if isinstance(result, BaseException)]
        assert [type(fault) for fault in faults] == [RecogniserFailedError]
        assert "INTERNAL" in str(faults[0])
        await until_metric(server, "facestack_pool_workers", 2)
        assert server.metric('facestack_pool_restarts_total{reason="crash"}') == 1
        assert victim.pid not in {worker.pid for worker in server.workers()}
        await asyncio.gather(*(client.identify(small_hopper) for _ in range(4)))
    assert server.metric('facestack_request_errors_total{operation="Identify/Identify"}') == 1


async def test_a_full_queue_and_a_slow_worker(face_recog: StartServer, small_hopper: bytes) -> None:
    server = face_recog(POOL_SIZE="1", QUEUE_SIZE="1", WORK_SECONDS="5")
    async with client_of(server) as client:
        [worker] = server.workers()
        worker.suspend()
        slow, waiting = (asyncio.create_task(client.identify(small_hopper)) for _ in range(2))
        await until_metric(server, "facestack_pool_queue_depth", 1)
        for _ in range(3):
            with pytest.raises(RecogniserBusyError):
                await client.identify(small_hopper)
        for answer in await asyncio.gather(slow, waiting):
            assert answer.image_name == "Grace Hopper/g.jpg"
        assert server.metric("facestack_pool_long_pictures_total") == 1


async def test_sigterm_ends_it_while_its_workers_start(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "OBJECT_STORE_URL": f"file://{tmp_path}",
        "PORT": "0",
        "PROBE_PORT": "0",
    }
    process = psutil.Popen([sys.executable, "-m", "services.face_recog"], env=environment)

    async def workers_are_started() -> bool:
        return bool(process.children(recursive=True))

    await until(workers_are_started)
    children = process.children(recursive=True)
    process.terminate()
    # Not by the signal's default: the first process of a container has none.
    assert await asyncio.to_thread(process.wait, 60) == 128 + signal.SIGTERM
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, 60)
    assert not alive


async def test_sigterm_finishes_what_is_in_flight(
    face_recog: StartServer, small_hopper: bytes
) -> None:
    server = face_recog(POOL_SIZE="1")
    async with client_of(server) as client:
        [worker] = server.workers()
        worker.suspend()
        requests = [asyncio.create_task(client.identify(small_hopper)) for _ in range(3)]
        await until_metric(server, "facestack_pool_queue_depth", 2)
        server.terminate()

        async def is_refusing() -> bool:
            async with grpc.aio.insecure_channel(server.target) as channel:
                try:
                    await face_pb2_grpc.IdentifyStub(channel).Identify(
                        face_pb2.IdentifyRequest(), timeout=2
                    )
                except grpc.aio.AioRpcError as error:
                    return error.code() == grpc.StatusCode.UNAVAILABLE
            return False

        await until(is_refusing)
        assert not any(request.done() for request in requests)
        os.kill(worker.pid, signal.SIGCONT)
        for answer in await asyncio.gather(*requests):
            assert answer.image_name == "Grace Hopper/g.jpg"
    assert await asyncio.to_thread(server.wait) == 0
    assert not psutil.pid_exists(worker.pid)


async def test_what_a_stop_leaves_unfinished_is_refused_as_busy(
    face_recog: StartServer, small_hopper: bytes
) -> None:
    server = face_recog(POOL_SIZE="1", STOP_SECONDS="0.2")
    async with client_of(server) as client:
        [worker] = server.workers()
        worker.suspend()
        requests = [asyncio.create_task(client.identify(small_hopper)) for _ in range(3)]
        await until_metric(server, "facestack_pool_queue_depth", 2)
        server.terminate()
        answers = await asyncio.gather(*requests, return_exceptions=True)
        assert [type(answer) for answer in answers] == [RecogniserBusyError] * 3
    assert await asyncio.to_thread(server.wait) == 0


async def is_alive(channel: grpc.aio.Channel) -> bool:
    health: Any = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service="liveness"))
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def test_it_serves_while_people_are_known_and_workers_live() -> None:
    events: asyncio.Queue[bool] = asyncio.Queue()
    ready, available, unavailable = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Listener:
        async def set_serving(self, *, serving: bool) -> None:
            (available if serving else unavailable).clear()
            events.put_nowait(serving)

    gallery: Any = SimpleNamespace(wait_ready=ready.wait)
    pool: Any = SimpleNamespace(wait_available=available.wait, wait_unavailable=unavailable.wait)
    server: Any = Listener()
    announcing = asyncio.create_task(announce(server, gallery, pool))
    available.set()
    await asyncio.sleep(0)
    assert events.empty()
    ready.set()
    assert await events.get()
    unavailable.set()
    assert not await events.get()
    available.set()
    assert await events.get()
    announcing.cancel()


async def test_readiness_comes_and_goes_and_liveness_stays() -> None:
    identifier: Any = None
    server = FaceRecogServer(identifier, DECIDER, connection_age=60, grace=0)
    port = await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)

        async def is_ready() -> bool:
            answer = await health.Check(health_pb2.HealthCheckRequest())
            assert await is_alive(channel)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        assert not await is_ready()
        await server.set_serving(serving=True)
        assert await is_ready()
        await server.set_serving(serving=False)
        assert not await is_ready()
        await server.drain()
        await server.set_serving(serving=True)
        assert not await is_ready(), "who drains does not come back"
    await server.stop()


async def test_who_compares_encodings_is_told_how_alike_strangers_are() -> None:
    identifier: Any = None
    server = FaceRecogServer(identifier, DECIDER, connection_age=60, grace=0)
    client = RecogniserClient(f"127.0.0.1:{await server.start('127.0.0.1', 0)}", timeout=60)
    assert await client.strangers() is None, "it does not serve yet"
    await server.set_serving(serving=True)
    await until(client.ping)
    assert await client.strangers() == ("x", DECIDER.strangers)
    await client.close()
    await server.stop()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotReadyError("loading"), grpc.StatusCode.UNAVAILABLE),
        (ObjectStoreUnavailableError("down"), grpc.StatusCode.UNAVAILABLE),
        (RecogniserUnavailableError("no worker"), grpc.StatusCode.UNAVAILABLE),
        (RecogniserBusyError("full"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (RecogniserFailedError("died"), grpc.StatusCode.INTERNAL),
        (WrongEngineError("another one"), grpc.StatusCode.FAILED_PRECONDITION),
        (ObjectRefusedError("no such key"), grpc.StatusCode.INVALID_ARGUMENT),
        (ZeroDivisionError("a bug"), grpc.StatusCode.UNKNOWN),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.name,
)
async def test_an_error_s_branch_tells_the_caller_what_to_do(
    error: Exception, code: grpc.StatusCode
) -> None:
    async def identify(request: IdentificationRequest, *, on_long: Any) -> Identification:
        raise error

    identifier: Any = SimpleNamespace(identify=identify)
    server = FaceRecogServer(identifier, DECIDER, connection_age=60, grace=0)
    port = await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await face_pb2_grpc.IdentifyStub(channel).Identify(face_pb2.IdentifyRequest())
    assert raised.value.code() == code
    await server.stop()


async def test_a_connections_age_cuts_no_request() -> None:
    release = asyncio.Event()

    async def identify(request: IdentificationRequest, *, on_long: Any) -> Identification:
        if request.picture == b"long":
            await on_long()
            await release.wait()
        return Identification(1, 1, [])

    identifier: Any = SimpleNamespace(identify=identify)
    server = FaceRecogServer(identifier, DECIDER, connection_age=0.5, grace=0.1)
    port = await server.start("127.0.0.1", 0)
    await server.set_serving(serving=True)
    client = RecogniserClient(f"127.0.0.1:{port}", timeout=60)
    told = asyncio.Event()
    long = asyncio.create_task(client.identify(b"long", on_long=told.set))
    await told.wait()
    seen: set[int] = set()

    def connections() -> set[int]:
        return {
            connection.laddr.port
            for connection in psutil.Process().net_connections("tcp")
            if connection.raddr
            and connection.raddr.port == port
            and connection.status == psutil.CONN_ESTABLISHED
        }

    async def aged() -> bool:
        seen.update(connections())
        await client.identify(b"short")
        return len(seen) >= 4

    await until(aged)
    assert not long.done()
    release.set()
    assert (await long).width == 1
    # The last one of an age is closed with its last request.
    await eventually(lambda: len(connections()) == 1)
    await client.close()
    await server.stop()


async def test_health_from_start_to_drain(face_recog: StartServer) -> None:
    server = face_recog(DRAIN_SECONDS="60")
    async with client_of(server), grpc.aio.insecure_channel(server.target) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        old = face_pb2_grpc.HealthCheckStub(channel)
        probe = f"{server.url}/readyz"
        async with httpx.AsyncClient() as http:
            assert (await http.get(probe)).status_code == 200
            assert (await old.HealthCheck(face_pb2.Empty())).ready
            for name in ("", "facerecog.Identify", "facerecog.HealthCheck"):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await health.Check(health_pb2.HealthCheckRequest(service="unknown"))
            assert error.value.code() == grpc.StatusCode.NOT_FOUND
            watched = health.Watch(health_pb2.HealthCheckRequest())
            assert (await watched.read()).status == health_pb2.HealthCheckResponse.SERVING

            server.terminate()
            assert (await watched.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watched.cancel()
            assert await is_alive(channel)
            assert (await http.get(probe)).status_code == 503
            assert not (await old.HealthCheck(face_pb2.Empty())).ready
            # Until the drain time is over, requests are still answered.
            answer = await face_pb2_grpc.IdentifyStub(channel).Identify(face_pb2.IdentifyRequest())
            assert answer.status == face_pb2.STATUS_INVALID_REQUEST
        server.terminate()
    assert await asyncio.to_thread(server.wait) == 0


async def test_without_its_store_it_starts_but_is_not_ready(
    face_recog: StartServer, small_hopper: bytes
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        server = face_recog(
            OBJECT_STORE_URL="s3://facestack",
            S3_ENDPOINT=f"http://127.0.0.1:{nobody.getsockname()[1]}",
            AWS_ACCESS_KEY_ID="x",
            AWS_SECRET_ACCESS_KEY="x",
        )
        client = RecogniserClient(server.target, timeout=20)
        assert not await client.ping()
        with pytest.raises(RecogniserUnavailableError):
            await client.identify(small_hopper)
        await client.close()
        async with grpc.aio.insecure_channel(server.target) as channel:
            assert await is_alive(channel)
            request = face_pb2.IdentifyRequest(image_data=small_hopper)
            with pytest.raises(grpc.aio.AioRpcError, match="being loaded"):
                await face_pb2_grpc.IdentifyStub(channel).Identify(request)


def test_a_port_in_use_ends_it_with_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for names in (("PORT", "PROBE_PORT"), ("PROBE_PORT", "PORT")):
            result = subprocess.run(
                [sys.executable, "-m", "services.face_recog"],
                check=False,
                capture_output=True,
                text=True,
                timeout=60,
                env={
                    **os.environ,
                    "PYTHONPATH": str(Path(__file__).parents[3]),
                    "HOST": "127.0.0.1",
                    "OBJECT_STORE_URL": f"file://{tmp_path}",
                    "POOL_SIZE": "1",
                    names[0]: port,
                    names[1]: "0",
                },
            )
            assert result.returncode == 1
            [line] = [text for text in result.stderr.splitlines() if text]
            assert f"cannot listen on 127.0.0.1:{port}" in line


@pytest.mark.parametrize(
    ("outcome", "image_name", "sent"),
    [
        (Outcome.NAMED, "Ada/1.jpg", face_pb2.OUTCOME_NAMED),
        (Outcome.UNSURE, "not_found", face_pb2.OUTCOME_UNSURE),
    ],
)
def test_a_face_that_is_asked_about_is_no_name_for_old_clients_either(
    outcome: Outcome, image_name: str, sent: face_pb2.Outcome.ValueType
) -> None:
    match = Match([Likely("Ada/1.jpg", "Ada", 0.3, 4.5)], outcome is Outcome.UNSURE, outcome)
    quality = Quality(1, None, 1, 1, 1, 1)
    face = DetectedFace(Box(1, 2, 3, 4), 1.0, np.array([0.25, -3]), quality=quality)
    answer = Identification(9, 9, [NamedFace(face, match)], 7)
    response = _response(answer, "engine")
    assert (response.image_name, response.calibration) == (image_name, 7)
    [found] = response.faces
    assert (found.outcome, [likely.likeness for likely in found.candidates]) == (sent, [4.5])
    assert found.encoding == struct.pack("<2f", 0.25, -3)
