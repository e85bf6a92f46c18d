"""Real pictures, a real face_recog process, and a gallery with a recogniser that costs nothing."""

import asyncio
import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from services.common.facerecog import face_pb2
from services.common.facerecog.client import RecogniserClient
from services.common.faces import Box
from services.common.quality import FIT, Flaw, Quality
from services.face_recog.domain import (
    DetectedFace,
    Encoding,
    Engine,
    Problem,
    RecogniserFaultError,
    Recognition,
    RejectedError,
)
from services.face_recog.service import Gallery
from services.face_recog.strangers import DLIB
from services.testing.damaged_pictures import save
from services.testing.processes import Service
from services.testing.recogniser import PictureContent
from services.testing.samples import sample
from services.testing.waiting import eventually


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """From a Pillow image to a file's content."""
    return save


@pytest.fixture(scope="session")
def astronaut() -> Image.Image:
    """Eileen Collins, 512 x 512; her face is at (175, 76) to (265, 166)."""
    return Image.open(sample("astronaut.png")).convert("RGB")


@pytest.fixture(scope="session")
def hopper() -> Image.Image:
    """Grace Hopper, 512 x 600; her face is at (180, 139) to (366, 325)."""
    return Image.open(sample("grace_hopper.jpg")).convert("RGB")


@pytest.fixture(scope="session")
def small_astronaut(astronaut: Image.Image) -> bytes:
    """Her face alone, 160 x 160."""
    return save(astronaut.crop((140, 40, 300, 200)), quality=95)


@pytest.fixture(scope="session")
def small_hopper(hopper: Image.Image) -> bytes:
    """Her face alone, 160 x 160."""
    return save(hopper.crop((123, 82, 423, 382)).resize((160, 160)), quality=95)


class FaceRecog(Service):
    """A real face_recog process on a store in a folder."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.store = folder / "store"
        defaults = {
            "OBJECT_STORE_URL": f"file://{self.store}",
            "POOL_SIZE": "2",
            "WATCH_SECONDS": "0.2",
        }
        super().__init__(
            "services.face_recog", folder / "face_recog.log", **{**defaults, **settings}
        )

    def put(self, key: str, content: bytes) -> None:
        path = self.store / key
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.store / "partial"
        partial.write_bytes(content)
        partial.replace(path)

    def metric(self, name: str) -> float:
        page = httpx.get(f"{self.url}/metrics").text
        values = [line.split()[-1] for line in page.splitlines() if line.startswith(name + " ")]
        return float(values[0]) if values else 0  # a label shows with its first operation

    async def identify(self, picture: bytes) -> face_pb2.IdentifyResponse:
        """Ask as the other services do, once it is ready."""
        client = RecogniserClient(self.target, timeout=60)
        await eventually(client.ping, seconds=60)
        answer = await client.identify(picture)
        await client.close()
        return answer

    def workers(self) -> list[psutil.Process]:
        """The worker processes: the children of the fork server."""
        return [
            worker for child in psutil.Process(self.pid).children() for worker in child.children()
        ]


@pytest.fixture
def face_recog(
    tmp_path: Path, astronaut: Image.Image, hopper: Image.Image
) -> Iterator[Callable[..., FaceRecog]]:
    """Starts face_recog with both people known; settings as environment variables."""
    started: list[FaceRecog] = []

    def start(**settings: str) -> FaceRecog:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        server = FaceRecog(folder, **settings)
        server.put("known_people/Eileen Collins/a.png", save(astronaut, "PNG"))
        server.put("known_people/Grace Hopper/g.jpg", save(hopper, quality=95))
        started.append(server.start().wait_alive())
        return server

    yield start
    for server in started:
        if server.is_running():
            for worker in server.workers():
                os.kill(worker.pid, signal.SIGCONT)
        server.stop()


ENGINE = Engine("dlib-1+rules-1", 128)


class FakeRecogniser:
    """Finds a face for every byte ``f``, but for two kinds of :class:`PictureContent`."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.running = 0
        self.most = 0

    async def recognise(
        self,
        picture: bytes,
        *,
        max_faces: int = 0,
        boxes: Any = (),
        urgent: bool = False,
        on_long: Any = None,
    ) -> Recognition:
        assert urgent
        self.seen.append(picture)
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        if picture == PictureContent.UNREADABLE:
            raise RejectedError(Problem.UNREADABLE, "not a picture")
        if picture == PictureContent.FATAL:
            raise RecogniserFaultError("the worker process died")
        score = 0.25 if b"blurred" in picture else 1.0
        quality = Quality(score, Flaw.BLURRED if score < FIT else None, 1.0, score, 1.0, 1.0)
        face = DetectedFace(Box(0, 0, 1, 1), 1.0, encoding_of(picture), quality=quality)
        return Recognition(1, 1, [face] * picture.count(b"f"))


def encoding_of(picture: bytes) -> Encoding:
    seed = int.from_bytes(hashlib.sha256(picture).digest()[:4])
    return np.random.default_rng(seed).normal(size=128) / 8


@pytest.fixture
def recogniser() -> FakeRecogniser:
    return FakeRecogniser()


def new_gallery(store: Any, recogniser: FakeRecogniser) -> Gallery:
    return Gallery(
        store,
        recogniser,
        prefix="known_people/",
        engine=ENGINE,
        parallel=3,
        tails=DLIB,
        false_names=0.01,
    )


def names(gallery: Gallery, picture: bytes) -> list[str]:
    """The known pictures that are this very one."""
    nearest = gallery.people.nearest(encoding_of(picture), 10)
    return [one.image_name for one in nearest if one.distance < 0.001]
