"""The pod's memory, as its manifest limits it, is enough for whatever is sent."""

import asyncio
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import yaml
from PIL import Image

from services.common.facerecog import face_pb2, face_pb2_grpc
from services.common.images import MAX_PICTURE_BYTES
from services.face_recog.settings import QUEUE_PER_WORKER, usable_cpus, worker_memory
from services.face_recog.tests.conftest import FaceRecog
from services.testing.samples import weights

MANIFEST = Path(__file__).parents[3] / "base" / "face-recog" / "deployment.yaml"


@pytest.fixture(scope="module")
def container() -> Any:
    deployment = next(
        one for one in yaml.safe_load_all(MANIFEST.read_text()) if one["kind"] == "Deployment"
    )
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    return container


@pytest.fixture
def cgroup(container: Any, tmp_path: Path) -> Path:
    """The control group that the manifest's limits make."""
    limits = container["resources"]["limits"]
    cpus, memory = limits["cpu"], limits["memory"]
    assert memory.endswith("Mi")
    (tmp_path / "cpu.max").write_text(f"{int(cpus) * 100000} 100000\n")
    (tmp_path / "memory.max").write_text(f"{int(memory[:-2]) * 1024**2}\n")
    return tmp_path


def used(server: FaceRecog) -> int:
    """Bytes of all processes; what they share counts once."""
    service = psutil.Process(server.pid)
    return sum(one.memory_full_info().pss for one in [service, *service.children(recursive=True)])


@pytest.mark.parametrize("engine", ["classic", "centerface"])
async def test_the_hungriest_picture_before_a_full_queue_of_the_largest_files(
    face_recog: Callable[..., FaceRecog], cgroup: Path, engine: str
) -> None:
    weights("centerface.onnx")
    workers = usable_cpus(cgroup)
    server = face_recog(
        ENGINE=engine,
        POOL_SIZE=str(workers),
        WORKER_MEMORY_BYTES=str(worker_memory(workers, cgroup)),
        WORK_SECONDS="120",
    )
    # Of all kinds WebP takes most: its decoder keeps four bytes a pixel three times.
    picture = io.BytesIO()
    Image.new("RGB", (7070, 7070), (1, 2, 3)).save(
        picture, "WEBP", lossless=True, quality=0, method=0
    )
    largest = b"\xff\xd8\xff" + os.urandom(MAX_PICTURE_BYTES - 3)
    refused = 3
    most = 0
    async with grpc.aio.insecure_channel(
        server.target, options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        stub = face_pb2_grpc.IdentifyStub(channel)

        async def ask(content: bytes) -> face_pb2.IdentifyResponse:
            request = face_pb2.IdentifyRequest(image_data=content)
            answer: face_pb2.IdentifyResponse = await stub.Identify(request, timeout=120)
            return answer

        for worker in server.workers():
            worker.suspend()
        hungry = [asyncio.create_task(ask(picture.getvalue())) for _ in range(workers)]
        waiting = [
            asyncio.create_task(ask(largest)) for _ in range(workers * QUEUE_PER_WORKER + refused)
        ]
        async with asyncio.timeout(60):
            full = workers * QUEUE_PER_WORKER
            while server.metric("facestack_pool_queue_depth") < full:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        for worker in server.workers():
            worker.resume()
        while not all(one.done() for one in [*hungry, *waiting]):
            most = max(most, used(server))
            await asyncio.sleep(0.05)
        answers = [one.result() for one in hungry]
        assert [(one.status, one.width) for one in answers] == [
            (face_pb2.STATUS_OK, 7070)
        ] * workers
        results = await asyncio.gather(*waiting, return_exceptions=True)
        faults = [one for one in results if isinstance(one, grpc.aio.AioRpcError)]
        assert [one.code() for one in faults] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * refused
    limit = int((cgroup / "memory.max").read_text())
    known_people = 100 * 1024**2  # 100,000 of them, for which there is room, too
    assert most < limit - known_people, f"{most / 1024**2:.0f} MiB"
