"""Faces cut out for lists: what they show, and that they go with their face."""

import httpx
import pytest
import sqlalchemy as sa
from PIL import Image

from services.common.database import Database
from services.common.faces import Box
from services.common.tables import faces, images
from services.receiver.adapters.decoding import PillowDecoder, shrunk_face
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import Start, collect
from services.receiver.tests.test_receiver_deletion import (
    looked_at,
    put_by_hand,
    stored,
    submit,
)
from services.receiver.tests.test_receiver_thumbnails import encoded, opened

FACE = "/images/1/faces/0/thumbnail"
KEY = "thumbnails/faces/1-10_10_50_50-256"
HOUR_MS = 3_700_000


def painted(size: tuple[int, int], box: Box) -> Image.Image:
    """Return a blue picture with a red box."""
    image = Image.new("RGB", size, "blue")
    image.paste((255, 0, 0), (box.left, box.top, box.right, box.bottom))
    return image


def colour(image: Image.Image, x: float, y: float) -> str:
    """Return the colour at a place of a square picture, from 0 to 1."""
    pixel = image.getpixel((int(x * (image.width - 1)), int(y * (image.height - 1))))
    assert isinstance(pixel, tuple)
    return "red" if pixel[0] > pixel[2] else "blue"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("box", "side"),
    [
        (Box(1000, 600, 1400, 1000), 256),
        (Box(1000, 600, 1040, 640), 60),  # never scaled up
        (Box(1000, 600, 1100, 1000), 256),
    ],
)
def test_it_is_a_square_with_a_quarter_of_the_box_around_it(kind: str, box: Box, side: int) -> None:
    face = opened(shrunk_face(encoded(painted((2000, 1600), box), kind), box, 256))
    assert face.size == (side, side)
    # The box takes two thirds of the longer side.
    width = (box.right - box.left) / (box.bottom - box.top) / 1.5
    for x, expected in ((0.44 - width / 2, "blue"), (0.56 - width / 2, "red")):
        assert colour(face, x, 0.5) == colour(face, 1 - x, 0.5) == expected
    for y, expected in ((0.11, "blue"), (0.22, "red")):
        assert colour(face, 0.5, y) == colour(face, 0.5, 1 - y) == expected


@pytest.mark.parametrize(
    "box",
    [
        Box(0, 0, 100, 100),
        Box(-20, 700, 80, 810),
        Box(1150, 20, 1200, 120),
        Box(-500, -500, 3000, 2000),
        Box(7, 7, 7, 7),
        Box(5000, 5000, 5010, 5010),
    ],
)
def test_it_shows_the_picture_alone_also_at_its_edge(box: Box) -> None:
    face = opened(shrunk_face(encoded(Image.new("RGB", (1200, 800), "red"), "PNG"), box, 256))
    assert face.width == face.height <= 256
    assert {colour(face, x, y) for x in (0, 0.5, 1) for y in (0, 0.5, 1)} == {"red"}


def test_it_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    box = Box(100, 300, 200, 400)
    lying = painted((800, 400), box).transpose(Image.Transpose.ROTATE_90)
    face = opened(shrunk_face(encoded(lying, exif=exif), box, 256))
    assert colour(face, 0.5, 0.5) == "red"
    assert {colour(face, x, y) for x in (0, 1) for y in (0, 1)} == {"blue"}


def test_nothing_of_the_file_is_kept_but_the_face() -> None:
    exif = Image.Exif()
    exif[0x010E] = "SECRET"
    content = encoded(
        Image.new("RGB", (400, 400)), exif=exif, comment=b"SECRET", icc_profile=b"SECRET" * 30
    )
    small = shrunk_face(content, Box(100, 100, 200, 200), 256)
    assert b"SECRET" not in small
    assert not opened(small).getexif()


async def change_faces(settings: ReceiverSettings, **values: object) -> None:
    database = Database(settings)
    async with database.transaction() as connection:
        await connection.execute(sa.update(faces).values(values))
    await database.close()


async def find_again(settings: ReceiverSettings) -> None:
    """Let an image_processor find the same face again in what was sent back."""
    database = Database(settings)
    face = {"left": 10, "top": 10, "right": 50, "bottom": 50, "detection_score": 1.0}
    async with database.transaction() as connection:
        await connection.execute(sa.update(images).values(status="processed"))
        await connection.execute(
            sa.insert(faces).values(
                **face, image_id=1, face_index=0, ambiguous=False, candidates=[]
            )
        )
    await database.close()


def kept(settings: ReceiverSettings) -> list[str]:
    return [key for key in stored(settings) if key.startswith("thumbnails/faces/")]


async def test_it_is_made_once_for_all_replicas_and_kept(
    start: Start, settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Box] = []
    shrink = PillowDecoder.shrink_face

    async def counted(self: PillowDecoder, content: bytes, box: Box, side: int) -> bytes:
        made.append(box)
        return await shrink(self, content, box, side)

    monkeypatch.setattr(PillowDecoder, "shrink_face", counted)
    first = start(settings).client
    await looked_at(first, settings)
    for client in (first, first, start(settings).client):
        answer = await client.get(FACE)
        assert answer.headers["content-type"] == "image/jpeg"
        assert opened(answer.content).size == (60, 60)
        again = await client.get(FACE, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert made == [Box(10, 10, 50, 50)]
    assert kept(settings) == [KEY]


async def test_two_faces_of_a_picture_are_two(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings
) -> None:
    await looked_at(plain, plain_settings)
    first = (await plain.get(FACE)).headers["etag"]
    await change_faces(plain_settings, left=20)
    assert (await plain.get(FACE, headers={"If-None-Match": first})).status_code == 200
    assert len(kept(plain_settings)) == 2


async def test_there_is_none_of_what_is_no_face(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings
) -> None:
    await looked_at(plain, plain_settings)
    tag = {"If-None-Match": (await plain.get(FACE)).headers["etag"]}
    for address in ("/images/1/faces/1/thumbnail", "/images/2/faces/0/thumbnail"):
        assert (await plain.get(address)).status_code == 404
    await change_faces(plain_settings, struck_out=True)
    answer = await plain.get(FACE, headers=tag)
    assert (answer.status_code, answer.json()["detail"]) == (404, "image 1 has no face 0")


async def test_there_is_none_of_a_picture_that_somebody_has_replaced(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings
) -> None:
    await looked_at(plain, plain_settings)
    tag = {"If-None-Match": (await plain.get(FACE)).headers["etag"]}
    put_by_hand(plain_settings, "front.png", encoded(Image.new("RGB", (90, 90)), "PNG"))
    answer = await plain.get(FACE, headers=tag)
    assert answer.status_code == 404
    assert answer.json()["detail"] == "face 0 of image 1 is not there any more"


# It goes with its face


@pytest.mark.parametrize("how", ["deleted", "recognised again", "replaced"])
async def test_it_goes_with_its_face(
    client: httpx.AsyncClient, settings: ReceiverSettings, how: str
) -> None:
    location = (await looked_at(client, settings))["location"]
    assert (await client.get(FACE)).status_code == 200
    if how == "deleted":
        assert (await client.delete(location)).status_code == 204
    elif how == "recognised again":
        assert (await client.post(f"{location}/recognise")).status_code == 202
    else:
        put_by_hand(settings, "front.png", encoded(Image.new("RGB", (90, 90)), "PNG"))
        assert (await submit(client, "front.png"))["status"] == "pending"
    assert (await client.get(FACE)).status_code == 404
    await collect(settings)
    assert kept(settings) == []


async def test_one_that_is_made_while_its_face_goes_goes_too(
    client: httpx.AsyncClient, settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await looked_at(client, settings)
    shrink = PillowDecoder.shrink_face

    async def overtaken(self: PillowDecoder, content: bytes, box: Box, side: int) -> bytes:
        await client.post("/images/1/recognise")
        await collect(settings)  # there is nothing to remove yet
        return await shrink(self, content, box, side)

    monkeypatch.setattr(PillowDecoder, "shrink_face", overtaken)
    assert (await client.get(FACE)).status_code == 404
    await collect(settings)
    assert kept(settings) == []


@pytest.mark.parametrize("there_again", [True, False])
async def test_it_stays_an_hour_later_only_if_a_face_is_there_again(
    client: httpx.AsyncClient, settings: ReceiverSettings, there_again: bool
) -> None:
    await looked_at(client, settings)
    await client.post("/images/1/recognise")
    await collect(settings)
    await find_again(settings)
    assert (await client.get(FACE)).status_code == 200
    if not there_again:
        await change_faces(settings, struck_out=True)
    await collect(settings, later_ms=HOUR_MS)
    assert kept(settings) == ([KEY] if there_again else [])
