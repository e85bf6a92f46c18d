import asyncio
import io
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageOps

from services.common.faces import Box, SeenFace
from services.common.picture_formats import MAX_PICTURE_BYTES
from services.receiver.adapters.decoding import PillowDecoder
from services.receiver.adapters.http.files import FileResponses
from services.receiver.domain.errors import InvalidError
from services.receiver.domain.people import Somebody
from services.receiver.service.people import Enrolment
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import draw, encode
from services.testing.clients import pod
from services.testing.damaged_pictures import save


class Gate:
    """Counts who is inside at once; nobody leaves before it is opened."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.open = asyncio.Event()

    async def enter(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.open.wait()

    def leave(self) -> None:
        self.inside -= 1


async def most_at_once(gate: Gate, start: Callable[[], Awaitable[None]], count: int) -> int:
    """Start many, let them get as far as they can, and return how many were inside."""
    tasks = [asyncio.ensure_future(start()) for _ in range(count)]
    for _ in range(100):
        await asyncio.sleep(0)
    gate.open.set()
    await asyncio.gather(*tasks)
    return gate.most


async def receive() -> Any:
    raise AssertionError


async def test_only_a_few_files_are_loaded_at_once() -> None:
    gate, files = Gate(), FileResponses()
    sent: list[int] = []

    async def load() -> tuple[bytes, str]:
        await gate.enter()
        gate.leave()
        return b"x" * 600_000, '"tag"'

    async def send(message: Any) -> None:
        sent.append(len(message.get("body", b"")))

    async def request() -> None:
        await files.response(load)({"type": "http"}, receive, send)

    assert await most_at_once(gate, request, 20) == 4
    assert sum(sent) == 20 * 600_000
    assert max(sent) < 300_000


async def test_clients_that_do_not_read_keep_no_picture_from_others() -> None:
    files, never = FileResponses(patience=0.05), asyncio.Event()
    picture = bytes(MAX_PICTURE_BYTES)
    begun = asyncio.Semaphore(0)
    ended = 0

    async def load() -> tuple[bytes, str]:
        return picture, '"tag"'

    async def stall(message: Any) -> None:
        if message["type"] == "http.response.start":
            begun.release()
        if message.get("body"):
            await never.wait()

    async def slow() -> None:
        nonlocal ended
        await files.response(load)({"type": "http"}, receive, stall)
        ended += 1

    async def read(message: Any) -> None:
        whole.append(message.get("body", b""))

    stalled = [asyncio.create_task(slow()) for _ in range(20)]
    async with asyncio.timeout(30):
        for _ in range(6):  # of 20 MiB each
            await begun.acquire()
        for _ in range(3):
            whole: list[bytes] = []
            await files.response(load)({"type": "http"}, receive, read)
            assert b"".join(whole) == picture
    assert 3 <= ended < 20  # those that had memory longest made place
    for task in stalled:
        task.cancel()
    await asyncio.gather(*stalled, return_exceptions=True)


async def test_only_a_few_pictures_wait_for_the_recogniser() -> None:
    gate = Gate()

    async def read() -> bytes:
        await gate.enter()
        return b"picture"

    class Recogniser:
        async def faces(self, _: bytes, *, person: str, image_id: int | None) -> list[SeenFace]:
            assert (person, image_id) == ("Ada", None)
            gate.leave()
            return []

    class KnownPictures:
        async def find(self, _: str) -> None:
            return None

    class People:
        async def who(self, who: str, **_: object) -> Somebody:
            return Somebody(None, who, who)

    unused: Any = None
    people: Any = People()
    known_pictures: Any = KnownPictures()
    enrolment = Enrolment(
        people=people,
        known_pictures=known_pictures,
        garbage=unused,
        pictures=unused,
        images=unused,
        recogniser=Recogniser(),
        cropper=unused,
    )

    async def enrol() -> None:
        with pytest.raises(InvalidError, match="no face"):
            await enrolment.enrol("Ada", read)

    assert await most_at_once(gate, enrol, 10) == 4


@pytest.mark.parametrize(
    ("kind", "mode", "size", "options"),
    [
        ("WEBP", "RGB", (7070, 7070), {"lossless": True, "quality": 0, "method": 0}),
        ("JPEG", "CMYK", (8000, 8000), {"quality": 10, "progressive": True}),
        ("JPEG", "RGB", (16_320, 12_240), {"quality": 10}),
    ],
)
def test_a_face_of_the_hungriest_pictures_is_cut_out_within_the_pod_s_memory(
    kind: str, mode: str, size: tuple[int, int], options: dict[str, Any]
) -> None:
    script = """
import sys
from services.receiver import app
from services.receiver.adapters.decoding import crops
from services.common.faces import Box
from services.testing.memory import peak_kib
assert len(crops(sys.stdin.buffer.read(), Box(100, 100, 400, 400), (0, 0.5))) == 2
print(peak_kib() // 1024)
"""
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=save(Image.new("RGB", size, (1, 2, 3)).convert(mode), kind, **options),
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    memory, _ = pod("receiver")
    assert int(done.stdout) < (memory - 2 * MAX_PICTURE_BYTES) // 2**20


async def test_a_known_picture_larger_than_any_is_not_read(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings
) -> None:
    picture = encode(draw(("red", (10, 10, 50, 50)), size=(60, 60)))
    answer = await plain.post("/people/Ada/pictures", files={"file": ("a.png", picture)})
    folder = Path(plain_settings.object_store_url.removeprefix("file://"), "known_people")
    with (folder / answer.json()["image_name"]).open("ab") as file:
        file.truncate(MAX_PICTURE_BYTES + 1)
    large = await plain.get(f"/people/Ada/pictures/{answer.json()['id']}")
    assert large.status_code == 404
    assert str(MAX_PICTURE_BYTES) in large.json()["detail"]


def pixels(content: bytes) -> Any:
    return np.array(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("box", [Box(20, 60, 40, 80), Box(0, 0, 30, 10), Box(60, 90, 90, 130)])
async def test_every_orientation_is_cut_where_the_whole_picture_has_it(
    orientation: int, box: Box
) -> None:
    # A shade of its own for every place: 1 of red per column, 1 of green per row.
    columns, rows = np.meshgrid(np.arange(150), np.arange(100))
    shades = np.stack([columns, rows, rows * 0], axis=2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(Image.fromarray(shades), exif=exif.tobytes())
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    crops = await PillowDecoder().crop(content, box, (0.5, 0.1))
    for crop, margin in zip(crops, (0.5, 0.1), strict=True):
        x, y = round((box.right - box.left) * margin), round((box.bottom - box.top) * margin)
        wanted = upright.crop(
            (
                max(0, box.left - x),
                max(0, box.top - y),
                min(upright.width, box.right + x),
                min(upright.height, box.bottom + y),
            )
        )
        found = pixels(crop)
        assert found.shape == np.array(wanted).shape
        assert abs(found - np.array(wanted).astype(int)).mean() < 2  # JPEG


async def test_a_picture_is_decoded_once_and_never_copied_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(Image.new("RGBA", (2000, 1000), "red"), exif=exif.tobytes())
    opened, copied = 0, []
    open_picture = Image.open

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal opened
        opened += 1
        return open_picture(*arguments, **named)

    def watch(method: str) -> None:
        original = getattr(Image.Image, method)

        def watched(self: Image.Image, *arguments: Any, **named: Any) -> Any:
            copied.append(self.size)
            return original(self, *arguments, **named)

        monkeypatch.setattr(Image.Image, method, watched)

    monkeypatch.setattr(Image, "open", counted)
    for method in ("convert", "transpose", "copy"):
        watch(method)
    await PillowDecoder().crop(content, Box(100, 100, 120, 120), (0.5, 0.25, 0.1))
    assert opened == 1
    assert copied
    assert max(copied) <= (40, 40)
