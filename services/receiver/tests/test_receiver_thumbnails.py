"""Small versions of pictures: what is made, that it is kept, and that it goes with its picture."""

import asyncio
import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, ImageDraw

from services.common.errors import ObjectNotFoundError, ObjectStoreUnavailableError
from services.common.faces import Box
from services.common.objects import ObjectStore
from services.common.picture_formats import MAX_PICTURE_BYTES
from services.common.thumbnails import Thumbnail
from services.receiver.adapters import decoding
from services.receiver.adapters.decoding import PillowDecoder, crops, shrunk
from services.receiver.adapters.http import thumbnails
from services.receiver.adapters.http.files import SENDING_BYTES
from services.receiver.adapters.http.thumbnails import THUMBNAIL_BYTES
from services.receiver.domain.errors import BusyError, InvalidError
from services.receiver.service.thumbnails import Thumbnails
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import Start, collect
from services.receiver.tests.test_receiver_deletion import (
    looked_at,
    put_by_hand,
    stored,
    submit,
    upload,
)
from services.testing.clients import pod

ROOT = Path(__file__).parents[3]


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    output = io.BytesIO()
    image.save(output, kind, **options)
    return output.getvalue()


def opened(content: bytes) -> Image.Image:
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
    assert opened(shrunk(encoded(image, kind), longest)).size == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_it_stands_upright(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    small = opened(shrunk(encoded(two_halves("red", "blue"), kind, exif=exif), 640))
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
    small = shrunk(content + b"SECRET<script>", 640)
    assert b"SECRET" not in small
    assert not opened(small).getexif()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "I;16", "CMYK"])
def test_every_mode_is_shown(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "WEBP" if mode == "PA" else "PNG"
    image = Image.new("RGB", (100, 100), "white")
    image = image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode)
    if mode == "PA":
        image = image.convert("RGBA")
    assert opened(shrunk(encoded(image, kind), 64)).size == (64, 64)


def test_sixteen_bits_keep_their_shades() -> None:
    image = Image.new("I;16", (64, 64), 0x8000)
    shade = opened(shrunk(encoded(image, "PNG"), 64)).convert("L").getpixel((32, 32))
    assert isinstance(shade, int)
    assert 120 < shade < 136


@pytest.mark.parametrize("side", [8001, 13000, 20000])
def test_a_bomb_is_refused(side: int) -> None:
    content = png_bomb(side)
    assert len(content) < 200_000
    with pytest.raises(InvalidError, match="pixels"):
        shrunk(content, 640)


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
    with pytest.raises(InvalidError, match="the picture cannot be read: "):
        shrunk(content, 640)


@pytest.mark.parametrize("fault", [MemoryError(), OSError(24, "Too many open files")])
def test_a_fault_of_the_machine_is_none_of_the_picture(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: bytes) -> None:
        raise fault

    monkeypatch.setattr(decoding, "open_picture", fail)
    with pytest.raises(BusyError, match="cannot be read now"):
        shrunk(RED, 640)
    with pytest.raises(BusyError, match="cannot be read now"):
        crops(RED, Box(0, 0, 9, 9), [0.5])


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
    script = """
import sys
from services.receiver import app
from services.receiver.adapters.decoding import shrunk
from services.testing.memory import peak_kib
assert shrunk(sys.stdin.buffer.read(), 1600)
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
    memory, _ = pod("receiver")
    # Beside it the next picture is read, and files and thumbnails are sent.
    others = MAX_PICTURE_BYTES + SENDING_BYTES + THUMBNAIL_BYTES
    assert int(done.stdout) < (memory - others) // 2**20


# Kept in the store

RED = encoded(Image.new("RGB", (2000, 1000), "red"))
BLUE = encoded(Image.new("RGB", (1000, 2000), "blue"), "PNG")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sides of all that was made, in this test."""
    sides: list[int] = []
    shrink = PillowDecoder.shrink

    async def counted(self: PillowDecoder, content: bytes, longest_side: int) -> bytes:
        sides.append(longest_side)
        return await shrink(self, content, longest_side)

    monkeypatch.setattr(PillowDecoder, "shrink", counted)
    return sides


async def small_versions(client: httpx.AsyncClient) -> list[str]:
    """Upload a picture, make it known, and return the addresses of all small versions."""
    location = (await upload(client, RED))["location"]
    known = await client.post("/people/A%3FB/pictures", files={"file": RED})
    assert known.status_code == 201, known.text
    address = f"/people/A%3FB/pictures/{known.json()['id']}/thumbnail"
    return [f"{location}/thumbnail", f"{location}/preview", address]


async def test_each_is_made_once_for_all_replicas_and_kept(
    start: Start, settings: ReceiverSettings, decoded: list[int]
) -> None:
    replicas = [start(settings).client, start(settings).client]
    addresses = await small_versions(replicas[0])
    for address, width in zip(addresses, (640, 1600, 640), strict=True):
        for client in (*replicas, start(settings).client):
            answer = await client.get(address)
            assert answer.headers["content-type"] == "image/jpeg"
            assert opened(answer.content).width == width
            tag = {"If-None-Match": answer.headers["etag"]}
            again = await client.get(address, headers=tag)
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == answer.headers["etag"]
    assert decoded == [640, 1600, 640]
    assert [key for key in stored(settings) if key.startswith("thumbnails/")] == [
        "thumbnails/images/1-1600",
        "thumbnails/images/1-640",
        "thumbnails/people/1-640",
    ]


async def test_what_is_kept_is_sent_while_others_are_made(
    start: Start, plain_settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnails, "_LOADED_AT_ONCE", 1)
    client = start(plain_settings).client
    kept, missing, _ = await small_versions(client)
    assert (await client.get(kept)).status_code == 200
    making, gate = asyncio.Event(), asyncio.Event()
    shrink = PillowDecoder.shrink

    async def slowly(self: PillowDecoder, content: bytes, longest_side: int) -> bytes:
        making.set()
        await gate.wait()
        return await shrink(self, content, longest_side)

    monkeypatch.setattr(PillowDecoder, "shrink", slowly)
    waiting = asyncio.create_task(client.get(missing))
    await making.wait()
    assert (await client.get(kept)).status_code == 200
    gate.set()
    assert (await waiting).status_code == 200


async def test_a_client_that_has_it_costs_no_look_at_it(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings
) -> None:
    address = (await small_versions(plain))[0]
    tag = (await plain.get(address)).headers["etag"]
    for file in folder_of(plain_settings).glob("thumbnails/images/*"):
        file.unlink()
    answer = await plain.get(address, headers={"If-None-Match": tag})
    assert answer.status_code == 304
    assert list(folder_of(plain_settings).glob("thumbnails/images/*")) == []


@pytest.mark.parametrize("harm", ["lost", "cut", "foreign", "of another picture", "empty"])
async def test_losing_or_damaging_one_costs_only_making_it_again(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings, decoded: list[int], harm: str
) -> None:
    address = (await small_versions(plain))[0]
    first = (await plain.get(address)).content
    other = (await upload(plain, BLUE))["location"]
    await plain.get(f"{other}/thumbnail")
    file = folder_of(plain_settings) / "thumbnails/images/1-640"
    kept = file.read_bytes()
    if harm == "lost":
        file.unlink()
    else:
        file.write_bytes(
            {
                "cut": kept[:-1],
                "foreign": RED,
                "of another picture": file.with_name("2-640").read_bytes(),
                "empty": b"",
            }[harm]
        )
    assert (await plain.get(address)).content == first
    assert file.read_bytes() == kept
    assert (await plain.get(address)).content == first
    assert decoded == [640, 640, 640]


def folder_of(settings: ReceiverSettings) -> Path:
    return Path(settings.object_store_url.removeprefix("file://"))


async def test_what_is_no_picture_says_why_and_is_looked_at_once(
    plain: httpx.AsyncClient, decoded: list[int]
) -> None:
    location = (await upload(plain, b"no picture"))["location"]
    for _ in range(2):
        answer = await plain.get(f"{location}/thumbnail")
        assert answer.status_code == 404
        assert answer.json()["detail"].startswith("the picture cannot be read: ")
    assert decoded == [640]


async def test_of_nothing_there_is_none(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings
) -> None:
    address = (await small_versions(plain))[2]
    missing = (await submit(plain, "missing.jpg"))["location"]
    large = (await submit(plain, "large.jpg"))["location"]
    put_by_hand(plain_settings, "large.jpg", RED + bytes(MAX_PICTURE_BYTES))
    for nothing in (
        "/images/99/thumbnail",
        f"{missing}/preview",
        f"{large}/thumbnail",
        address.replace("A%3FB", "Ada"),
        address.replace("/1/", "/99/"),
    ):
        answer = await plain.get(nothing)
        assert answer.status_code == 404, nothing
        assert answer.json()["detail"]
    assert not any(key.startswith("thumbnails/") for key in stored(plain_settings))


async def test_another_picture_at_the_same_path_has_another_one(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings
) -> None:
    put_by_hand(plain_settings, "a", RED)
    address = (await submit(plain, "a"))["location"] + "/thumbnail"
    first = await plain.get(address)
    put_by_hand(plain_settings, "a", BLUE)
    second = await plain.get(address, headers={"If-None-Match": first.headers["etag"]})
    assert [opened(one.content).size for one in (first, second)] == [(640, 320), (320, 640)]
    assert second.headers["etag"] != first.headers["etag"]


async def test_it_is_shown_where_it_cannot_be_kept(
    plain: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = (await small_versions(plain))[0]

    def refused(self: ObjectStore, key: str, *arguments: Any, **named: Any) -> Any:
        if key.startswith("thumbnails/"):
            raise ObjectStoreUnavailableError("object store: permission denied")
        return get_tagged(self, key, *arguments, **named)

    get_tagged = ObjectStore.get_tagged
    monkeypatch.setattr(ObjectStore, "get_tagged", refused)
    monkeypatch.setattr(ObjectStore, "put", refused)
    assert opened((await plain.get(address)).content).width == 640


# It goes with its picture


async def test_deleting_a_picture_leaves_nothing(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    addresses = await small_versions(client)
    assert [(await client.get(one)).status_code for one in addresses] == [200, 200, 200]
    assert (await client.delete("/images/1")).status_code == 204
    assert (await client.delete("/people/A%3FB/pictures/1")).status_code == 204
    await collect(settings)
    assert stored(settings) == []
    assert [(await client.get(one)).status_code for one in addresses] == [404, 404, 404]


async def test_forgetting_a_person_leaves_nothing(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    address = (await small_versions(client))[2]
    assert (await client.get(address)).status_code == 200
    assert (await client.delete("/people/A%3FB")).status_code == 204
    await collect(settings)
    assert not any("people" in key for key in stored(settings))


async def test_one_that_is_made_while_its_picture_is_deleted_goes_too(
    client: httpx.AsyncClient, settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = await small_versions(client)
    shrink = PillowDecoder.shrink

    async def overtaken(self: PillowDecoder, content: bytes, longest_side: int) -> bytes:
        await client.delete("/images/1")
        await client.delete("/people/A%3FB")
        await collect(settings)  # there is nothing to remove yet
        return await shrink(self, content, longest_side)

    monkeypatch.setattr(PillowDecoder, "shrink", overtaken)
    together = await asyncio.gather(*map(client.get, addresses))
    assert [one.status_code for one in together] == [404, 404, 404]
    await collect(settings)
    assert stored(settings) == []


async def test_one_whose_maker_dies_while_its_picture_is_deleted_goes_an_hour_later(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    await small_versions(client)
    await client.delete("/images/1")
    await collect(settings)
    await ObjectStore(settings).put("thumbnails/images/1-640", b"late")
    await collect(settings, later_ms=3_700_000)
    assert "thumbnails/images/1-640" not in stored(settings)


async def test_that_of_a_picture_that_was_replaced_goes_when_that_is_noticed(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    location = (await looked_at(client, settings))["location"]
    assert (await client.get(f"{location}/thumbnail")).status_code == 200
    put_by_hand(settings, "front.png", BLUE)
    assert (await submit(client, "front.png"))["status"] == "pending"
    await collect(settings)
    assert stored(settings) == ["pictures/front.png"]


# Many at once


class Source:
    """A store whose pictures come when the gate is open."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.running = self.most = 0
        self.gate = asyncio.Event()
        self.called = asyncio.Event()
        self.thumbnails: dict[str, bytes] = {}

    async def tag(self, key: str) -> str:
        return key

    async def get_tagged(self, key: str, *, max_bytes: int) -> tuple[bytes, str]:
        if key.startswith("thumbnails/"):
            if key not in self.thumbnails:
                raise ObjectNotFoundError(key)
            return self.thumbnails[key], ""
        self.read.append(key)
        self.called.set()
        self.running += 1
        self.most = max(self.most, self.running)
        await self.gate.wait()
        await asyncio.sleep(0)  # let others in
        self.running -= 1
        return key.encode(), key

    async def put(self, key: str, content: bytes) -> None:
        self.thumbnails[key] = content


class Echo:
    async def shrink(self, content: bytes, _: int) -> bytes:
        return b"\xff\xd8" + content

    async def shrink_face(self, content: bytes, *_: object) -> bytes:
        return b"\xff\xd8" + content


def of(source: Any) -> Thumbnails:
    unused: Any = None
    return Thumbnails(pictures=source, garbage=unused, shrinker=Echo())


def ask(made: Thumbnails, name: str) -> Awaitable[tuple[bytes, str]]:
    async def find() -> str:
        return name

    return made.get(Thumbnail(f"thumbnails/{name}", 640), find)


async def test_it_is_made_once_for_many() -> None:
    source = Source()
    made = of(source)
    waiting = [asyncio.ensure_future(ask(made, "a")) for _ in range(10)]
    await source.called.wait()
    waiting[0].cancel()  # one client goes away
    source.gate.set()
    results = await asyncio.gather(*waiting[1:])
    assert {content for content, _ in results} == {b"\xff\xd8a"}
    assert source.read == ["a"]


async def test_only_a_few_pictures_are_in_memory_at_a_time() -> None:
    source = Source()
    source.gate.set()
    made = of(source)
    await asyncio.gather(*(ask(made, str(number)) for number in range(20)))
    assert source.most == 2


async def test_too_many_are_refused_and_kept_ones_are_not() -> None:
    source = Source()
    source.gate.set()
    made = of(source)
    await ask(made, "kept")
    source.gate.clear()
    waiting = [asyncio.ensure_future(ask(made, str(number))) for number in range(256)]
    await asyncio.sleep(0)
    assert len(made._making) == 256
    with pytest.raises(BusyError, match="too many"):
        await ask(made, "one more")
    assert (await ask(made, "kept"))[0] == b"\xff\xd8kept"
    source.gate.set()
    await asyncio.gather(*waiting)
