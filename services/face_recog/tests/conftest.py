"""Real pictures, and a real face_recog process."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image

from services.common.facerecog import face_pb2
from services.common.facerecog.client import RecogniserClient
from services.face_recog.tests.galleries import FakeRecogniser
from services.testing.damaged_pictures import save
from services.testing.processes import Service
from services.testing.samples import sample
from services.testing.waiting import eventually


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


@pytest.fixture
def recogniser() -> FakeRecogniser:
    return FakeRecogniser()
