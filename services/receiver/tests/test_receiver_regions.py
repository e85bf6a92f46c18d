import asyncio
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.faces import Box, DecidedBy
from services.common.picture_files.xmp import MAX_XMP
from services.receiver.domain.faces import Face, ImageRegion
from services.receiver.service.regions import match
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import Launch, Running, Start, draw, encode
from services.receiver.tests.test_receiver_people import name_face, seed_faces
from services.testing.damaged_pictures import tiff
from services.testing.memory import peak_kib

SIZE = (400, 200)
ADA = (40, 60, 100, 140)
GRACE = (200, 60, 260, 140)


def packet(*regions: tuple[str, tuple[int, int, int, int]], size: tuple[int, int] = SIZE) -> bytes:
    """XMP with regions as Lightroom writes them; boxes are of the picture as it is stored."""
    width, height = size
    items = "".join(
        f'<rdf:li><rdf:Description mwg-rs:Name="{name}" mwg-rs:Type="Face"><mwg-rs:Area'
        f' stArea:x="{(left + right) / 2 / width}" stArea:y="{(top + bottom) / 2 / height}"'
        f' stArea:w="{(right - left) / width}" stArea:h="{(bottom - top) / height}"/>'
        "</rdf:Description></rdf:li>"
        for name, (left, top, right, bottom) in regions
    )
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
        ' xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/"'
        ' xmlns:stArea="http://ns.adobe.com/xmp/sType/Area#"><rdf:Description>'
        f"<mwg-rs:Regions><rdf:Description><mwg-rs:RegionList><rdf:Bag>{items}</rdf:Bag>"
        "</mwg-rs:RegionList></rdf:Description></mwg-rs:Regions>"
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def photo(xmp: bytes = b"", orientation: int = 1) -> bytes:
    exif = b"Exif\0\0" + tiff(orientation)
    picture = draw(("red", ADA), ("green", GRACE), size=SIZE)
    return encode(picture, "JPEG", exif=exif, **({"xmp": xmp} if xmp else {}))


def region(
    name: str | None, box: tuple[int, ...] | None, face: int | None, problem: str | None = None
) -> dict[str, object]:
    sides = ("left", "top", "right", "bottom")
    at = dict(zip(sides, box, strict=True)) if box else None
    return {"name": name, "box": at, "face": face, "problem": problem}


async def test_the_regions_of_a_file_are_told_with_the_faces_that_they_match(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    nobody = (300, 10, 340, 40)
    xmp = packet(("Grace", GRACE), ("a/b", ADA), ("Somebody", nobody))
    image_id = await seed_faces(client, settings, photo(xmp), ADA, GRACE)
    answer = await client.get(f"/images/{image_id}/regions")
    assert (answer.status_code, answer.json()["regions"]) == (
        200,
        [
            region("Grace", GRACE, 1),
            region(None, ADA, 0, "a person's name must not contain /, got 'a/b'"),
            region("Somebody", nobody, None),
        ],
    )


async def test_a_turned_picture_has_its_regions_where_it_shows_them(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings
) -> None:
    upright = (60, 40, 140, 100)  # mirrored along the diagonal
    image_id = await seed_faces(plain, plain_settings, photo(packet(("Ada", ADA)), 5), upright)
    answer = (await plain.get(f"/images/{image_id}/regions")).json()
    assert answer == {"regions": [region("Ada", upright, 0)]}


async def test_a_sidecar_is_read_and_one_is_written(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings
) -> None:
    image_id = await seed_faces(plain, plain_settings, photo(packet(("Not me", ADA))), ADA, GRACE)
    address = f"/images/{image_id}/regions"
    files = {"file": ("a.jpg.xmp", packet(("Ada", ADA)))}
    assert (await plain.post(address, files=files)).json() == {"regions": [region("Ada", ADA, 0)]}
    name = "Grace & <Söhne>"
    assert (await name_face(plain, name, image_id, 1)).status_code == 201
    sidecar = await plain.get(f"/images/{image_id}/sidecar")
    assert sidecar.headers["content-type"] == "application/rdf+xml"
    files = {"file": ("a.jpg.xmp", sidecar.content)}
    answer = await plain.post(address, files=files)
    assert answer.json() == {"regions": [region(name, GRACE, 1)]}
    # The picture stays as it was sent.
    assert (await plain.get(f"/images/{image_id}/picture")).content == photo(
        packet(("Not me", ADA))
    )


async def test_what_cannot_be_read_is_refused_with_the_reason(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings
) -> None:
    async def refused(image_id: int, reason: str, status: int = 409) -> None:
        answer = await plain.get(f"/images/{image_id}/regions")
        assert (answer.status_code, answer.json()["detail"]) == (status, reason)
        assert answer.headers["content-type"] == "application/problem+json"

    damaged = await seed_faces(plain, plain_settings, photo(b"<x>"), ADA)
    words = "the regions cannot be read: the XMP is damaged: no element found: line 1, column 3"
    await refused(damaged, words)
    no_picture = await seed_faces(plain, plain_settings, b"hello", ADA)
    answer = await plain.get(f"/images/{no_picture}/regions")
    assert "the regions cannot be read: this is no picture" in answer.json()["detail"]
    assert (await plain.get(f"/images/{no_picture}/sidecar")).status_code == 409
    await refused(99, "there is no image 99", 404)
    assert (await plain.get("/images/99/sidecar")).status_code == 404
    image_id = await seed_faces(plain, plain_settings, photo(), ADA)
    assert (await plain.get(f"/images/{image_id}/regions")).json() == {"regions": []}
    address = f"/images/{image_id}/regions"
    for content, status in ((b"", 422), (b"<x>", 422), (bytes(MAX_XMP), 422)):
        sent = await plain.post(address, files={"file": ("a.xmp", content)})
        assert sent.status_code == status, sent.text
    large = await plain.post(address, files={"file": ("a.xmp", bytes(MAX_XMP + 200_000))})
    assert large.status_code == 413
    assert (await plain.post(address, json={})).status_code == 415
    assert (await plain.post("/images/99/regions", files={"file": ("a", b"a")})).status_code == 404


async def test_a_lost_or_other_picture_has_no_regions_to_tell(
    start: Start, plain_settings: ReceiverSettings
) -> None:
    running: Running = start(plain_settings)
    client = running.client
    image_id = await seed_faces(client, plain_settings, photo(packet(("Ada", ADA))), ADA)
    folder = Path(plain_settings.object_store_url.removeprefix("file://"))
    for path in (folder / "pictures").rglob("*"):
        if path.is_file():
            path.unlink()
    for what in ("regions", "sidecar"):
        answer = await client.get(f"/images/{image_id}/{what}")
        assert answer.json()["detail"] == f"image {image_id} has no picture in the store"


async def test_many_that_read_the_worst_keep_nobody_from_the_rest(
    launch: Launch, plain_settings: ReceiverSettings
) -> None:
    process = launch(plain_settings)
    async with httpx.AsyncClient(base_url=process.url, timeout=120) as client:
        image_id = await seed_faces(client, plain_settings, photo(), ADA)
        worst = b"<x>" + b"<b c='%030d'/>" % 0 * 190_000 + b"</x>"
        address = f"/images/{image_id}/regions"
        reading = [
            asyncio.create_task(client.post(address, files={"file": ("a.xmp", worst)}))
            for _ in range(8)
        ]
        await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
        assert (await client.get(f"/images/{image_id}")).status_code == 200
        assert not all(one.done() for one in reading), "an answer in between"
        answers = await asyncio.gather(*reading)
    assert {one.status_code for one in answers} == {200}
    # A file, its text and its tree: of one request, as the others wait with theirs on disk.
    assert peak_kib(process.pid) < 320 * 1024


def face(index: int, *box: int) -> Face:
    who = (None, None, None, DecidedBy.MACHINE, (), (), ())
    return Face(Box(*box), 1.0, index, False, *who, drawn=False)


def named(*box: int) -> ImageRegion:
    return ImageRegion("Ada", Box(*box), None, None)


@pytest.mark.parametrize(
    ("box", "matched"),
    [
        ((100, 100, 200, 200), 0),
        ((50, 50, 250, 250), 0),  # as a program draws that takes in hair and neck: a quarter
        ((130, 130, 170, 170), 0),  # eyes and nose
        ((120, 80, 220, 180), 0),
        ((151, 100, 251, 200), None),  # its middle is outside
        ((0, 0, 160, 160), None),  # the face's is not its own
        ((300, 100, 400, 200), None),
    ],
)
def test_a_region_matches_the_face_whose_middle_it_shares(
    box: tuple[int, ...], matched: int | None
) -> None:
    [one] = match([named(*box)], [face(0, 100, 100, 200, 200)])
    assert one.face == matched


def test_of_several_the_nearest_match() -> None:
    # A child before its father.
    large, small = face(4, 100, 100, 300, 300), face(2, 170, 170, 250, 250)
    found = match([named(160, 160, 260, 260), named(90, 90, 310, 310)], [large, small])
    assert [one.face for one in found] == [2, 4]
    twice = match([named(100, 100, 200, 200)] * 2, [face(0, 100, 100, 200, 200)])
    assert [one.face for one in twice] == [0, None]
    nowhere = ImageRegion("Ada", None, None, "cropped")
    assert match([nowhere], [large]) == [nowhere]


sides = st.integers(0, 50)


@given(
    st.lists(st.tuples(sides, sides, sides, sides), max_size=8),
    st.lists(st.tuples(sides, sides, sides, sides), max_size=8),
)
def test_no_face_is_given_twice(
    regions: list[tuple[int, ...]], faces: list[tuple[int, ...]]
) -> None:
    found = match(
        [named(*one) for one in regions], [face(n * 3, *one) for n, one in enumerate(faces)]
    )
    assert [one.box for one in found] == [Box(*one) for one in regions]
    given_ = [one.face for one in found if one.face is not None]
    assert len(given_) == len({*given_})
    assert {*given_} <= {n * 3 for n in range(len(faces))}
