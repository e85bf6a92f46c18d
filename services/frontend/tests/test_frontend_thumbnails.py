import asyncio
import io
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import httpx
import pytest
import yaml
from PIL import Image, ImageDraw

from services.frontend.adapters.shrink import shrink
from services.frontend.service import CACHE_BYTES, Thumbnails
from services.frontend.tests.fake_receiver import FakeReceiver, image_json, person_json, problem

ROOT = Path(__file__).parents[3]


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    output = io.BytesIO()
    image.save(output, kind, **options)
    return output.getvalue()


def opened(content: bytes | None) -> Image.Image:
    assert content is not None
    image = Image.open(io.BytesIO(content))
    assert image.format == "JPEG"
    image.load()
    return image


def two_halves(left: str, right: str) -> Image.Image:
    image = Image.new("RGB", (800, 400), left)
    ImageDraw.Draw(image).rectangle((400, 0, 800, 400), fill=right)
    return image


def png_bomb(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [((4000, 3000), 640, (640, 480)), ((100, 50), 640, (100, 50)), ((300, 2400), 640, (80, 640))],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_it_is_scaled_down_and_never_up(
    kind: str, size: tuple[int, int], longest: int, expected: tuple[int, int]
) -> None:
    image = Image.new("RGB", size, "red")
    assert opened(shrink(encoded(image, kind), longest)).size == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_it_stands_upright(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    small = opened(shrink(encoded(two_halves("red", "blue"), kind, exif=exif), 640))
    assert small.size == (320, 640)
    top, bottom = small.getpixel((160, 100)), small.getpixel((160, 540))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[0] > 200 > bottom[0]
    assert bottom[2] > 200 > top[2]


def test_nothing_of_the_file_is_kept_but_the_picture() -> None:
    exif = Image.Exif()
    exif[0x010E] = "SECRET"
    content = encoded(
        two_halves("red", "blue"), exif=exif, comment=b"SECRET", icc_profile=b"SECRET" * 30
    )
    assert content.count(b"SECRET") > 2
    small = shrink(content + b"SECRET<script>", 640)
    assert small is not None
    assert b"SECRET" not in small
    assert not opened(small).getexif()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "I;16", "CMYK"])
def test_every_mode_is_shown(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "WEBP" if mode == "PA" else "PNG"
    image = Image.new("RGB", (100, 100), "white")
    image = image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode)
    if mode == "PA":
        image = image.convert("RGBA")
    assert opened(shrink(encoded(image, kind), 64)).size == (64, 64)


def test_sixteen_bits_keep_their_shades() -> None:
    image = Image.new("I;16", (64, 64), 0x8000)
    shade = opened(shrink(encoded(image, "PNG"), 64)).convert("L").getpixel((32, 32))
    assert isinstance(shade, int)
    assert 120 < shade < 136


@pytest.mark.parametrize("side", [8001, 13000, 20000])
def test_a_bomb_is_refused(side: int) -> None:
    content = png_bomb(side)
    assert len(content) < 200_000
    assert shrink(content, 640) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no picture",
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        encoded(Image.new("RGB", (100, 100)), "ICO"),
        encoded(two_halves("red", "blue"))[:2000],
        encoded(Image.effect_noise((300, 300), 50), "PNG")[:-40000],
    ],
)
def test_what_is_no_whole_picture_is_refused(content: bytes) -> None:
    assert shrink(content, 640) is None


@pytest.mark.parametrize(
    ("kind", "mode", "size", "options"),
    [
        ("WEBP", "RGB", (7070, 7070), {"lossless": True, "quality": 0, "method": 0}),
        ("JPEG", "CMYK", (8000, 8000), {"quality": 10, "progressive": True}),
        ("JPEG", "RGB", (16_320, 12_240), {"quality": 10}),
        ("PNG", "RGBA", (8000, 8000), {}),
    ],
)
def test_the_hungriest_pictures_fit_into_the_pod(
    kind: str, mode: str, size: tuple[int, int], options: dict[str, object]
) -> None:
    """Decoded as often at the same time as the page does."""
    script = """
import sys
from concurrent.futures import ThreadPoolExecutor
from services.frontend import app
from services.frontend.adapters.shrink import shrink
from services.frontend.service import CONCURRENCY
from services.testing.memory import peak_kib
content = sys.stdin.buffer.read()
with ThreadPoolExecutor(CONCURRENCY) as threads:
    made = list(threads.map(shrink, [content] * CONCURRENCY, [1600] * CONCURRENCY))
assert all(made)
print(peak_kib() // 1024)
"""
    image = Image.new("RGB", size, (1, 2, 3)).convert(mode)
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=encoded(image, kind, **options),
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    manifest = (ROOT / "base" / "frontend" / "deployment.yaml").read_text()
    [deployment] = [one for one in yaml.safe_load_all(manifest) if one["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    limit = container["resources"]["limits"]["memory"]
    assert limit == "1Gi"
    assert int(done.stdout) < 1024 - CACHE_BYTES // 2**20


# The cache


class Source:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.running = 0
        self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.called = asyncio.Event()

    async def fetch(self, address: str) -> bytes | None:
        self.calls.append(address)
        self.called.set()
        self.running += 1
        self.most = max(self.most, self.running)
        await self.gate.wait()
        await asyncio.sleep(0)  # let others in
        self.running -= 1
        return None if address == "missing" else address.encode()


def echo(content: bytes, side: int) -> bytes | None:
    return content * side


async def test_a_picture_is_made_once_for_many() -> None:
    source = Source()
    source.gate.clear()
    thumbnails = Thumbnails(source.fetch, echo)
    waiting = [asyncio.create_task(thumbnails.get(("a", "1", 2))) for _ in range(10)]
    await source.called.wait()
    waiting[0].cancel()  # one client goes away
    source.gate.set()
    results = await asyncio.gather(*waiting[1:])
    assert results == [b"aa"] * 9
    assert source.calls == ["a"]


async def test_no_more_than_a_few_are_made_at_a_time() -> None:
    source = Source()
    thumbnails = Thumbnails(source.fetch, echo, concurrency=2)
    await asyncio.gather(*(thumbnails.get((str(i), "", 1)) for i in range(20)))
    assert source.most == 2


async def test_the_least_used_is_forgotten_when_the_room_is_used_up() -> None:
    source = Source()
    thumbnails = Thumbnails(source.fetch, echo, cache_bytes=2 * 1300)
    for address in ("a", "b", "a", "c", "a", "b"):
        await thumbnails.get((address, "", 1000))
    assert source.calls == ["a", "b", "c", "b"]


async def test_what_cannot_be_shown_is_remembered_too() -> None:
    source = Source()
    thumbnails = Thumbnails(source.fetch, echo)
    assert await thumbnails.get(("missing", "", 1)) is None
    assert await thumbnails.get(("missing", "", 1)) is None
    assert source.calls == ["missing"]


# The routes


async def test_a_thumbnail_is_a_new_jpeg_that_may_be_kept(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    original = encoded(Image.new("RGB", (2000, 1000), "red"), "PNG")
    receiver.images = [image_json(5)]
    receiver.people = [person_json("A?B", 6)]
    receiver.answers = {
        "GET /images/5/picture": httpx.Response(200, content=original),
        "GET /people/A%3FB/pictures/6": httpx.Response(200, content=original),
    }
    for shown_on, path, width in (
        ("/", "/images/5/thumbnail", 640),
        ("/images/5", "/images/5/preview", 1600),
        ("/people", "/people/A%3FB/pictures/6/thumbnail", 640),
    ):
        html = (await page.get(shown_on)).text
        addresses = re.findall(rf'="({re.escape(path)}\?v=[^"]+)"', html)
        answer = await page.get(addresses[0])
        assert answer.headers["Content-Type"] == "image/jpeg"
        assert "immutable" in answer.headers["Cache-Control"]
        assert opened(answer.content).width == width
        # What a client made up is not kept, neither there nor here.
        calls = [call for call in receiver.calls if "/picture" in call]
        for version in ("?v=1", "?v=2", ""):
            answer = await page.get(path + version)
            assert answer.headers["Cache-Control"] == "no-cache"
            again = await page.get(
                path + version, headers={"If-None-Match": answer.headers["ETag"]}
            )
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["ETag"] == answer.headers["ETag"]
        assert [call for call in receiver.calls if "/picture" in call] == calls


@pytest.mark.parametrize(
    "path",
    ["/people/%2e/pictures/1/thumbnail", "/people/Ada/pictures/1/thumbnail", "/images/1/preview"],
)
async def test_a_thumbnail_of_nothing_is_not_found(page: httpx.AsyncClient, path: str) -> None:
    assert (await page.get(path)).status_code == 404


async def test_nothing_is_made_for_a_browser_that_has_it(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.images = [image_json(5, path="a.jpg")]
    content = encoded(Image.new("RGB", (100, 100)))
    receiver.answers = {"GET /images/5/picture": httpx.Response(200, content=content)}
    first = await page.get("/images/5/thumbnail")
    tag = {"If-None-Match": first.headers["ETag"]}
    receiver.answers = {}  # as another replica would have to ask for it
    assert (await page.get("/images/5/thumbnail", headers=tag)).status_code == 304
    assert receiver.calls.count("GET /images/5/picture") == 1
    assert (await page.get("/images/5/preview", headers=tag)).status_code == 200
    receiver.images = [image_json(5, path="b.jpg")]
    assert (await page.get("/images/5/thumbnail", headers=tag)).status_code == 200
    receiver.images = []
    assert (await page.get("/images/5/thumbnail", headers=tag)).status_code == 404


async def test_another_picture_behind_an_id_is_made_anew(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    widths = []
    for size, path in ((100, "a.jpg"), (200, "b.jpg")):
        receiver.images = [image_json(5, path=path)]
        content = encoded(Image.new("RGB", (size, size)))
        receiver.answers = {"GET /images/5/picture": httpx.Response(200, content=content)}
        widths.append(opened((await page.get("/images/5/thumbnail")).content).width)
    assert widths == [100, 200]


@pytest.mark.parametrize(
    "answer", [httpx.Response(200, content=b"junk"), problem(404, "the picture is missing")]
)
async def test_what_cannot_be_shown_has_a_placeholder(
    page: httpx.AsyncClient, receiver: FakeReceiver, answer: httpx.Response
) -> None:
    receiver.images = [image_json(5)]
    receiver.answers = {"GET /images/5/picture": answer}
    shown = await page.get("/images/5/thumbnail?v=1")
    assert shown.status_code == 200
    assert shown.headers["Content-Type"] == "image/svg+xml"
    assert b"junk" not in shown.content
    assert "immutable" not in shown.headers["Cache-Control"]


async def test_a_file_larger_than_any_picture_is_not_read_to_its_end(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.images = [image_json(5)]
    content = encoded(two_halves("red", "blue")) + bytes(21 * 2**20)
    receiver.answers = {"GET /images/5/picture": httpx.Response(200, content=content)}
    assert (await page.get("/images/5/thumbnail")).headers["Content-Type"] == "image/svg+xml"


async def test_a_busy_receiver_is_asked_again(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.images = [image_json(5)]
    receiver.answers = {"GET /images/5/picture": problem(429, "too many requests")}
    assert (await page.get("/images/5/thumbnail?v=1")).status_code == 503
    receiver.answers = {
        "GET /images/5/picture": httpx.Response(200, content=encoded(two_halves("red", "blue")))
    }
    assert (await page.get("/images/5/thumbnail?v=1")).headers["Content-Type"] == "image/jpeg"


async def test_without_the_receiver_nothing_is_remembered(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.images = [image_json(5)]
    receiver.away = True
    assert (await page.get("/images/5/thumbnail?v=1")).status_code == 503
    receiver.away = False
    receiver.answers = {
        "GET /images/5/picture": httpx.Response(200, content=encoded(two_halves("red", "blue")))
    }
    assert (await page.get("/images/5/thumbnail?v=1")).headers["Content-Type"] == "image/jpeg"
