"""The pod's memory, as its manifest limits it, is enough for whatever is sent."""

import asyncio
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc
import psutil
import pytest
import yaml
from PIL import Image

from services.common.cgroups import memory_limit, usable_cpus
from services.common.facerecog import face_pb2, face_pb2_grpc
from services.common.picture_formats import FORMATS, MAX_PICTURE_BYTES
from services.face_recog.settings import QUEUE_PER_WORKER, worker_memory
from services.face_recog.tests.conftest import FaceRecog
from services.testing.damaged_pictures import save
from services.testing.waiting import eventually

MANIFEST = Path(__file__).parents[3] / "base" / "face-recog" / "deployment.yaml"


@pytest.fixture(scope="module")
def container() -> Any:
    deployment = next(
        manifest
        for manifest in yaml.safe_load_all(MANIFEST.read_text())
        if manifest["kind"] == "Deployment"
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
    return sum(
        process.memory_full_info().pss for process in [service, *service.children(recursive=True)]
    )


async def until_ready(server: FaceRecog) -> None:
    """Return when it knows its people."""
    await eventually(lambda: server.metric("facestack_gallery_pictures"), seconds=300)


@pytest.mark.parametrize("kind", [file_format.kind for file_format in FORMATS])
async def test_the_largest_picture_of_every_format_is_recognised(
    face_recog: Callable[..., FaceRecog], cgroup: Path, kind: str
) -> None:
    workers = usable_cpus(cgroup)
    server = face_recog(
        POOL_SIZE="1",
        WORKER_MEMORY_BYTES=str(worker_memory(workers, memory_limit(cgroup))),
        WORK_SECONDS="600",
        LONG_SECONDS="600",
    )
    mode = "1" if kind == "BMP" else "RGBA" if kind in {"PNG", "TIFF", "AVIF", "HEIF"} else "RGB"
    # Of most, one with alpha takes most memory; a BMP of so many pixels is too large a file.
    size = _LARGEST.get(kind, (8000, 8000))
    largest = Image.new("RGB", size, (1, 2, 3)).convert(mode)
    content = save(largest, kind, **_SMALL.get(kind, {}))
    assert len(content) < MAX_PICTURE_BYTES
    await until_ready(server)
    [worker] = server.workers()
    async with grpc.aio.insecure_channel(
        server.target, options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        request = face_pb2.IdentifyRequest(image_data=content)
        answer = await face_pb2_grpc.IdentifyStub(channel).Identify(request, timeout=600)
    assert (answer.status, answer.width, answer.height) == (face_pb2.STATUS_OK, *size)
    assert [process.pid for process in server.workers()] == [worker.pid]


_LARGEST: Final = {"JPEG": (16_320, 12_240), "WEBP": (8165, 6123), "AVIF": (8165, 6123)}

_SMALL: Final[dict[str, dict[str, Any]]] = {
    "JPEG": {"quality": 10},
    "WEBP": {"lossless": True, "quality": 0, "method": 0},
    "AVIF": {"quality": 10, "speed": 10},
    "HEIF": {"enc_params": {"preset": "ultrafast"}},
    "TIFF": {"compression": "tiff_lzw"},
}


@pytest.mark.parametrize("engine", ["classic", "centerface"])
async def test_the_hungriest_picture_before_a_full_queue_of_the_largest_files(
    face_recog: Callable[..., FaceRecog], cgroup: Path, engine: str
) -> None:
    workers = usable_cpus(cgroup)
    server = face_recog(
        ENGINE=engine,
        POOL_SIZE=str(workers),
        WORKER_MEMORY_BYTES=str(worker_memory(workers, memory_limit(cgroup))),
        WORK_SECONDS="600",
        LONG_SECONDS="600",
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
            answer: face_pb2.IdentifyResponse = await stub.Identify(request, timeout=600)
            return answer

        await until_ready(server)  # without its workers it would not be, and refuse all
        for worker in server.workers():
            worker.suspend()
        hungry = [asyncio.create_task(ask(picture.getvalue())) for _ in range(workers)]
        waiting = [
            asyncio.create_task(ask(largest)) for _ in range(workers * QUEUE_PER_WORKER + refused)
        ]
        async with asyncio.timeout(300):
            full = workers * QUEUE_PER_WORKER
            while server.metric("facestack_pool_queue_depth") < full:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        for worker in server.workers():
            worker.resume()
        while not all(request.done() for request in [*hungry, *waiting]):
            most = max(most, used(server))
            await asyncio.sleep(0.05)
        answers = [request.result() for request in hungry]
        assert [(answer.status, answer.width) for answer in answers] == [
            (face_pb2.STATUS_OK, 7070)
        ] * workers
        results = await asyncio.gather(*waiting, return_exceptions=True)
        faults = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
        assert [fault.code() for fault in faults] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * refused
    limit = int((cgroup / "memory.max").read_text())
    known_people = 100 * 1024**2  # 15,000 of them, for which there is room, too
    assert most < limit - known_people, f"{most / 1024**2:.0f} MiB"


async def test_a_large_picture_leaves_a_worker_as_small_as_before(
    face_recog: Callable[..., FaceRecog], hopper: Image.Image
) -> None:
    server = face_recog(POOL_SIZE="1")
    [worker] = server.workers()
    own = []
    for size in ((768, 900), (3416, 4000)):
        answer = await server.identify(save(hopper.resize(size), quality=95))
        assert len(answer.faces) == 1
        own.append(worker.memory_full_info().uss)
    assert own[1] < own[0] + 16 * 1024**2, own
