import asyncio
import io
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import sqlalchemy as sa
from PIL import Image

from services.common.changes import changed_person
from services.common.database import Database
from services.common.errors import DatabaseUnavailableError
from services.common.facerecog import face_pb2
from services.common.objects import ObjectStore
from services.common.quality import Flaw
from services.common.tables import faces, images, person_images, persons
from services.receiver.adapters.rows.known_pictures import DatabaseKnownPictures
from services.receiver.adapters.rows.people import DatabasePeople
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import FakeRecogniser, collect, count_colours, draw, encode

ONE = encode(draw(("red", (10, 10, 50, 50)), size=(60, 60)))
OTHER = encode(draw(("green", (10, 10, 50, 50)), size=(60, 60)))
NONE = encode(draw(size=(60, 60)))
TWO = encode(draw(("red", (0, 0, 20, 20)), ("blue", (30, 30, 50, 50)), size=(60, 60)))


async def enrol(
    client: httpx.AsyncClient, name: str, content: bytes, **params: str
) -> httpx.Response:
    return await client.post(
        f"/people/{quote(name, safe='')}/pictures",
        files={"file": ("a.png", content)},
        params=params,
    )


def known(settings: ReceiverSettings) -> list[str]:
    folder = Path(settings.object_store_url.removeprefix("file://"), "known_people")
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


async def test_a_picture_with_one_face_becomes_known(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    answer = await enrol(client, "Grace Hopper", ONE)
    assert answer.status_code == 201
    enrolled = answer.json()
    assert enrolled["person"] == "Grace Hopper"
    assert known(settings) == [enrolled["image_name"]]
    assert enrolled["image_name"].startswith("Grace Hopper/")
    assert enrolled["image_name"].endswith(".png")
    await enrol(client, "Ada", OTHER)
    people = (await client.get("/people")).json()["people"]
    assert [person["name"] for person in people] == ["Ada", "Grace Hopper"]
    (picture,) = people[1]["pictures"]
    assert (picture["id"], picture["image_name"]) == (enrolled["id"], enrolled["image_name"])
    file = await client.get(f"/people/Grace%20Hopper/pictures/{enrolled['id']}")
    assert file.content == ONE
    assert file.headers["content-type"] == "image/png"


async def add_people(settings: ReceiverSettings, *names: str) -> None:
    database = Database(settings)
    async with database.transaction() as connection:
        for name in names:
            result: sa.CursorResult[tuple[()]] = await connection.execute(
                sa.insert(persons).values(name=name, created_at=0)
            )
            keys = [f"{name}/{number}.png" for number in (1, 2)]
            values = [
                {"person_id": result.lastrowid, "image_name": key, "created_at": 0} for key in keys
            ]
            await connection.execute(sa.insert(person_images), values)
    await database.close()


async def names_of_pages(client: httpx.AsyncClient, **params: str | int) -> list[list[str]]:
    pages = []
    while True:
        answer = (await client.get("/people", params=params)).json()
        assert all(len(person["pictures"]) == 2 for person in answer["people"])
        pages.append([person["name"] for person in answer["people"]])
        if answer["next_cursor"] is None:
            return pages
        params["cursor"] = answer["next_cursor"]


async def test_people_come_in_pages_by_name(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    everybody = ["Ada", "Ada Lovelace", "Grace", "Zoë", "a & b", "Åsa", "Жанна"]
    await add_people(settings, *reversed(everybody))
    for limit in (2, 1, 3, 6, 7, 8):
        pages = await names_of_pages(client, limit=limit)
        assert [name for page in pages for name in page] == everybody
        assert {len(page) for page in pages[:-1]} <= {limit}
        assert 1 <= len(pages[-1]) <= limit
    # A client of before there were pages shows everybody.
    assert await names_of_pages(client) == [everybody]
    await add_people(settings, *(f"Person {number:03}" for number in range(50)))
    assert len((await names_of_pages(client))[0]) == 57
    assert [len(page) for page in await names_of_pages(client, name="")] == [50, 7]


async def test_who_comes_and_goes_between_two_pages_moves_nobody(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    await add_people(settings, "Ada", "Eve", "Ida", "Uma")
    first = (await client.get("/people", params={"limit": 2})).json()
    assert [person["name"] for person in first["people"]] == ["Ada", "Eve"]
    assert (await client.delete("/people/Eve")).status_code == 204
    assert (await client.delete("/people/Ada")).status_code == 204
    await add_people(settings, "Abe", "Hal")
    second = await client.get("/people", params={"cursor": first["next_cursor"]})
    assert [person["name"] for person in second.json()["people"]] == ["Hal", "Ida", "Uma"]


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({"name": "hop"}, ["Grace Hopper", "hopscotch"]),
        ({"name": "HOP"}, ["Grace Hopper", "hopscotch"]),
        ({"name": " zoe\u0308 "}, ["Zoë"]),  # in decomposed form
        ({"name": "жанна"}, ["Жанна"]),
        ({"name": "ЖАН"}, ["Жанна"]),
        ({"name": "%"}, ["100% & #?"]),
        ({"name": "_"}, []),
        ({"name": "\\"}, []),
        ({"name": "hop", "cursor": "Grace Hopper"}, ["hopscotch"]),
        ({"person": "hop"}, []),
        ({"person": " Zoe\u0308"}, ["Zoë"]),
        ({"person": "Grace Hopper", "name": "ada"}, []),
    ],
)
async def test_people_are_found_by_a_part_of_their_name_or_all_of_it(
    client: httpx.AsyncClient,
    settings: ReceiverSettings,
    params: dict[str, str],
    found: list[str],
) -> None:
    await add_people(settings, "100% & #?", "Ada", "Grace Hopper", "Zoë", "hopscotch", "Жанна")
    assert await names_of_pages(client, **params) == [found]


@pytest.mark.parametrize(
    "params",
    [{"limit": 0}, {"limit": 201}, {"limit": "x"}, {"cursor": "x" * 101}, {"person": "a/b"}],
)
async def test_wrong_parameters_of_a_page_are_refused(
    plain: httpx.AsyncClient, params: dict[str, str | int]
) -> None:
    answer = await plain.get("/people", params=params)
    assert answer.status_code == 422
    assert [one["pointer"] for one in answer.json()["errors"]] == [f"/query/{next(iter(params))}"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (NONE, "no face found"),
        (TWO, "2 faces found: crop the picture to one"),
        (b"no picture", "this is no picture"),
        (b"", "empty"),
    ],
)
async def test_anything_else_is_refused_with_the_reason(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings, content: bytes, reason: str
) -> None:
    answer = await enrol(plain, "Ada", content)
    assert answer.status_code == 422
    assert reason in answer.json()["detail"]
    assert known(plain_settings) == []
    assert (await plain.get("/people")).json() == {"people": [], "next_cursor": None}


def quality(flaw: str | None) -> face_pb2.Quality:
    numbers = dict.fromkeys(("size", "sharpness", "pose", "light"), 1.0)
    return face_pb2.Quality(score=0.25 if flaw else 1.0, flaw=flaw, **numbers)


def taken_for(person: str, *, ambiguous: bool = False) -> face_pb2.Face:
    candidate = face_pb2.Candidate(person=person, image_name=f"{person}/1.jpg", distance=0.3)
    return face_pb2.Face(candidates=[candidate], ambiguous=ambiguous)


@pytest.mark.parametrize(
    ("face", "reason"),
    [
        *(
            (face_pb2.Face(quality=quality(flaw)), f"the face is {flaw}: choose ")
            for flaw in (*Flaw, "one of a later version")
        ),
        (
            face_pb2.Face(like_person=False),
            "the face does not look like the other pictures of 'Ada'",
        ),
        (taken_for("Grace"), "the face looks like 'Grace', who is known: check the name"),
    ],
)
async def test_a_face_in_doubt_is_refused_with_the_reason_unless_somebody_insists(
    plain: httpx.AsyncClient,
    plain_settings: ReceiverSettings,
    recogniser: FakeRecogniser,
    face: face_pb2.Face,
    reason: str,
) -> None:
    recogniser.face = face
    image_id = await seed_faces(plain, plain_settings, ONE, (10, 10, 50, 50))
    for answer in (
        await enrol(plain, "Ada", ONE),
        await enrol(plain, "Ada", ONE, insist="false"),
        await name_face(plain, "Ada", image_id, 0),
    ):
        assert answer.status_code == 422
        assert reason in answer.json()["detail"]
        assert [one["pointer"] for one in answer.json()["errors"]] == ["/query/insist"]
    assert known(plain_settings) == []
    assert (await plain.get("/people")).json() == {"people": [], "next_cursor": None}
    assert (await plain.get(f"/images/{image_id}")).json()["faces"][0]["person"] is None
    assert (await enrol(plain, "Ada", ONE, insist="true")).status_code == 201
    assert (await name_face(plain, "Ada", image_id, 0, insist="true")).status_code == 201
    assert len(known(plain_settings)) == 2
    # What is known already is in no doubt.
    assert (await enrol(plain, "Ada", ONE)).status_code == 201
    assert (await name_face(plain, "Ada", image_id, 0)).status_code == 201
    assert {*recogniser.persons} == {"Ada"}


@pytest.mark.parametrize(
    "face",
    [
        face_pb2.Face(quality=quality(None), like_person=True),
        taken_for("Ada"),
        taken_for("Grace", ambiguous=True),  # it may be anybody
    ],
)
async def test_a_face_in_no_doubt_becomes_known(
    plain: httpx.AsyncClient, recogniser: FakeRecogniser, face: face_pb2.Face
) -> None:
    recogniser.face = face
    assert (await enrol(plain, "Ada", ONE)).status_code == 201


async def test_nobody_can_insist_on_two_faces(plain: httpx.AsyncClient) -> None:
    answer = await enrol(plain, "Ada", TWO, insist="true")
    assert answer.status_code == 422
    assert "errors" not in answer.json()
    wrong = await enrol(plain, "Ada", ONE, insist="perhaps")
    assert [one["pointer"] for one in wrong.json()["errors"]] == ["/query/insist"]


async def test_the_same_picture_again_is_the_same_known_picture(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    answers = await asyncio.gather(*(enrol(client, "Ada", ONE) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    await collect(settings)
    assert len(known(settings)) == 1


async def test_a_picture_belongs_to_one_person(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    names = [f"Person {n}" for n in range(8)]
    answers = await asyncio.gather(*(enrol(client, name, ONE) for name in names))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
    (winner,) = (answer.json() for answer in answers if answer.status_code == 201)
    await collect(settings)
    assert known(settings) == [winner["image_name"]]
    (person,) = (await client.get("/people")).json()["people"]
    assert person["name"] == winner["person"]
    refused = await enrol(client, "Somebody", ONE)
    assert winner["person"] in refused.json()["detail"]


async def test_a_recogniser_that_is_away_refuses_enrolment_only(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings, recogniser: FakeRecogniser
) -> None:
    await recogniser.stop()
    answer = await enrol(plain, "Ada", ONE)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert known(plain_settings) == []
    assert (await plain.get("/readyz")).status_code == 200
    assert (await plain.post("/image/post", json={"path": "a"})).status_code == 202


def stored_files(settings: ReceiverSettings) -> list[Path]:
    folder = Path(settings.object_store_url.removeprefix("file://"))
    return [path for path in folder.rglob("*") if path.is_file()]


async def seed_faces(
    client: httpx.AsyncClient,
    settings: ReceiverSettings,
    content: bytes,
    *boxes: tuple[int, int, int, int],
) -> int:
    answer = await client.post("/images", files={"files": ("a.jpg", content)})
    image_id = int(answer.json()["images"][0]["id"])
    database = Database(settings)
    rows = [
        {
            "image_id": image_id,
            "face_index": index,
            **dict(zip(("left", "top", "right", "bottom"), box, strict=True)),
            "detection_score": 1.0,
            "ambiguous": True,
            "distance": 0.3,
            "candidates": [],
            "decided_by": "machine",
            "likeness": 4.5,
            "calibration": 2,
        }
        for index, box in enumerate(boxes)
    ]
    async with database.transaction() as connection:
        await connection.execute(sa.update(images).values(status="processed"))
        await connection.execute(sa.insert(faces), rows)
    await database.close()
    return image_id


async def decided(settings: ReceiverSettings) -> list[tuple[Any, ...]]:
    database = Database(settings)
    query = sa.select(faces.c.decided_by, faces.c.likeness, faces.c.calibration)
    async with database.reading() as connection:
        rows = await connection.execute(query.order_by(faces.c.face_index))
        found = [tuple(row) for row in rows]
    await database.close()
    return found


async def name_face(
    client: httpx.AsyncClient, name: str, image_id: int, face: int, **params: str
) -> httpx.Response:
    return await client.post(
        f"/people/{quote(name)}/pictures",
        json={"image_id": image_id, "face_index": face},
        params=params,
    )


async def test_an_unknown_face_is_cut_out_and_named(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    # The neighbour is within half a face's size of the first face, but not within a quarter.
    picture = draw(("red", (100, 100, 200, 200)), ("green", (235, 100, 335, 200)), size=(500, 300))
    image_id = await seed_faces(
        client, settings, encode(picture), (100, 100, 200, 200), (235, 100, 335, 200)
    )
    answer = await name_face(client, "Ada", image_id, 0)
    assert answer.status_code == 201, answer.text
    enrolled = answer.json()
    crop = (await client.get(f"/people/Ada/pictures/{enrolled['id']}")).content
    assert enrolled["image_name"].endswith(".jpg")
    with Image.open(io.BytesIO(crop)) as image:
        assert image.size == (150, 150)
    assert count_colours(crop) == 1
    found = (await client.get(f"/images/{image_id}")).json()["faces"]
    assert [face["person"] for face in found] == ["Ada", None]
    # Named by hand: no longer a guess at a distance.
    assert (found[0]["distance"], found[0]["ambiguous"]) == (None, False)
    assert (found[1]["distance"], found[1]["ambiguous"]) == (0.3, True)
    assert await decided(settings) == [("hand", None, None), ("machine", 4.5, 2)]
    again = await name_face(client, "Ada", image_id, 0)
    assert (again.status_code, again.json()) == (201, enrolled)
    by_person = (await client.get("/images", params={"person": "Ada"})).json()["images"]
    assert [image["id"] for image in by_person] == [image_id]


async def test_a_turned_phone_photo_is_cut_where_the_face_is(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings
) -> None:
    upright = draw(("blue", (20, 220, 60, 260)), size=(100, 300))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise to stand upright
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    content = encode(turned, "JPEG", exif=exif.tobytes())
    image_id = await seed_faces(plain, plain_settings, content, (20, 220, 60, 260))
    answer = await name_face(plain, "Ada", image_id, 0)
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("kind", ["I;16", "RGBA", "P", "L"])
async def test_any_kind_of_pixels_can_be_cut(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings, kind: str
) -> None:
    picture = draw(size=(100, 100))
    picture = Image.new("I;16", (100, 100), 65535) if kind == "I;16" else picture.convert(kind)
    image_id = await seed_faces(plain, plain_settings, encode(picture), (40, 40, 60, 60))
    answer = await name_face(plain, "Ada", image_id, 0)
    assert answer.status_code == 422
    # It was read and cut; the recogniser sees no face in plain white.
    assert "no face found" in answer.json()["detail"]


async def test_a_face_that_cannot_be_parted_from_its_neighbour_is_refused(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings
) -> None:
    image_id = await seed_faces(plain, plain_settings, TWO, (0, 0, 60, 60))
    answer = await name_face(plain, "Ada", image_id, 0)
    assert answer.status_code == 422
    assert "2 faces found" in answer.json()["detail"]
    assert known(plain_settings) == []


async def test_a_face_of_a_damaged_or_huge_picture_is_refused(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings
) -> None:
    huge = Image.new("1", (10_000, 6_500))
    for content, reason in (
        (ONE[: len(ONE) // 2], "cannot be read"),
        (b"no picture", "cannot be read"),
        (encode(huge), "10000 x 6500 pixels"),
        (encode(Image.new("1", (13_000, 13_000))), "pixels"),
    ):
        image_id = await seed_faces(plain, plain_settings, content, (0, 0, 10, 10))
        answer = await name_face(plain, "Ada", image_id, 0)
        assert answer.status_code == 422
        assert reason in answer.json()["detail"]


async def test_a_face_that_is_not_there_is_not_found(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings
) -> None:
    image_id = await seed_faces(plain, plain_settings, ONE, (10, 10, 50, 50))
    assert (await name_face(plain, "Ada", image_id, 1)).status_code == 404
    assert (await name_face(plain, "Ada", image_id + 1, 0)).status_code == 404
    for file in stored_files(plain_settings):
        file.unlink()
    assert (await name_face(plain, "Ada", image_id, 0)).status_code == 404


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (" \u00a0", "must not be empty"),
        (".a", "must not start with a dot"),
        ("..", "must not start with a dot"),
        ("a\nb", "control characters"),
        ("a\0", "control characters"),
        ("a\t", "control characters"),
        ("a\u200bb", "U+200B (zero width space)"),
        ("x" * 101, "at most 100 characters, this has 101"),
        ("😀" * 51, "at most 200 bytes in UTF-8, this has 204"),
        ("\ufb2c" * 40, "at most 100 characters, this has 120"),
        ("AC/DC", "must not contain /"),
        ("AC/pictures", "must not contain /"),
        ("/", "must not contain /"),
    ],
)
async def test_a_name_that_cannot_be_a_key_is_refused(
    plain: httpx.AsyncClient, name: str, reason: str
) -> None:
    # Encoded wholly, or the client would resolve dots.
    address = "".join(f"%{byte:02X}" for byte in name.encode())
    for method, url, body in (
        ("POST", f"/people/{address}/pictures", {"files": {"file": ("a.png", ONE)}}),
        ("DELETE", f"/people/{address}", {}),
        ("DELETE", f"/people/{address}/pictures/1", {}),
        ("GET", f"/people/{address}/pictures/1", {}),
        ("GET", f"/images?person={address}", {}),
        ("GET", f"/status?person={address}", {}),
    ):
        arguments: dict[str, Any] = body
        answer = await plain.request(method, url, **arguments)
        assert answer.status_code == 422, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert reason in answer.json()["errors"][0]["detail"]
    assert (await plain.get("/people")).json() == {"people": [], "next_cursor": None}


async def test_any_other_name_works_everywhere(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    names = (
        *("<script>x", "Zoë", "名前", "a.b c", "100% & more?#", "'", "x" * 100, "Sammy Davis Jr."),
        *(
            "John F.",
            "J.",
            "null",
            "%",
            "%2F",
            "?",
            "+",
            "a+b",
            "\\",
            "*",
            '"',
            "👨\u200d👩\u200d👧",
            "#1",
        ),
    )
    for name in names:
        enrolled = (await enrol(client, name, ONE)).json()
        assert enrolled["person"] == name
        await collect(settings)
        assert known(settings) == [enrolled["image_name"]]
        address = f"/people/{quote(name, safe='')}"
        assert (await client.get(f"{address}/pictures/{enrolled['id']}")).content == ONE
        assert (await client.get("/images", params={"person": name})).json()["images"] == []
        assert (await client.delete(f"{address}/pictures/{enrolled['id']}")).status_code == 204
        assert (await client.delete(address)).status_code == 204
    await collect(settings)
    assert known(settings) == []


async def test_a_name_is_the_same_in_any_form(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    composed, decomposed = "Zo\u00eb", "Zoe\u0308"
    first = (await enrol(client, f" {decomposed} ", ONE)).json()
    assert first["person"] == composed
    assert (await enrol(client, composed, ONE)).json() == first
    image = (await client.post("/image/post", json={"path": "a.jpg"})).json()
    database = Database(settings)
    async with database.transaction() as connection:
        await connection.execute(sa.update(images).values(status="processed"))
        await connection.execute(sa.insert(faces), [_face(image["id"], composed)])
    await database.close()
    for name in (composed, decomposed, f"{composed} ", f"\u00a0{decomposed}"):
        address = f"/people/{quote(name)}/pictures/{first['id']}"
        assert (await client.get(address)).content == ONE
        found = await client.get("/images", params={"person": name})
        assert [one["id"] for one in found.json()["images"]] == [image["id"]]
        counts = (await client.get("/status", params={"person": name})).json()["images"]
        assert counts["processed"] == 1
    put_by_hand(settings, f"{decomposed}/by-hand.jpg")
    assert (await client.delete(f"/people/{quote(decomposed)}")).status_code == 204
    await collect(settings)
    assert known(settings) == []


def _face(image_id: int, person: str) -> dict[str, Any]:
    box = dict.fromkeys(("left", "top", "right", "bottom"), 1)
    return {
        **box,
        "image_id": image_id,
        "face_index": 0,
        "detection_score": 1.0,
        "ambiguous": False,
        "person": person,
        "distance": 0.1,
        "candidates": [],
    }


async def test_forgetting_removes_objects_and_rows(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    first = (await enrol(client, "Ada", ONE)).json()
    second = (await enrol(client, "Ada", OTHER)).json()
    kept = (await enrol(client, "Grace", encode(draw(("blue", (0, 0, 9, 9)), size=(9, 9))))).json()
    address = f"/people/Ada/pictures/{first['id']}"
    assert (await client.delete(f"/people/Grace/pictures/{first['id']}")).status_code == 404
    assert (await client.delete(address)).status_code == 204
    assert (await client.delete(address)).status_code == 404
    assert (await client.get(address)).status_code == 404
    await collect(settings)
    assert known(settings) == sorted([second["image_name"], kept["image_name"]])
    assert (await client.delete("/people/Ada")).status_code == 204
    assert (await client.delete("/people/Ada")).status_code == 404
    await collect(settings)
    assert known(settings) == [kept["image_name"]]
    (person,) = (await client.get("/people")).json()["people"]
    assert person["name"] == "Grace"


def put_by_hand(settings: ReceiverSettings, name: str) -> None:
    file = Path(settings.object_store_url.removeprefix("file://"), "known_people", name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(ONE)


async def test_forgetting_removes_pictures_that_have_no_row(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings
) -> None:
    for name in ("Ada/one.jpg", "Ada/more/two.jpg", "Zoë 100% & #?/one.jpg", "Ada B/one.jpg"):
        put_by_hand(plain_settings, name)
    assert (await plain.delete("/people/Ada")).status_code == 204
    assert (await plain.delete("/people/Ada")).status_code == 404
    assert (await plain.delete(f"/people/{quote('Zoë 100% & #?')}")).status_code == 204
    await collect(plain_settings)
    assert known(plain_settings) == ["Ada B/one.jpg"]
    await enrol(plain, "Ada", OTHER)
    put_by_hand(plain_settings, "Ada/one.jpg")
    assert (await plain.delete("/people/Ada")).status_code == 204
    await collect(plain_settings)
    assert known(plain_settings) == ["Ada B/one.jpg"]


async def test_a_picture_put_again_while_it_is_forgotten_does_not_stay(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for adapter, method in (
        (DatabasePeople, "delete"),
        (DatabaseKnownPictures, "delete_picture"),
    ):
        enrolled = (await enrol(plain, "Ada", ONE)).json()
        remove = getattr(adapter, method)

        async def late(*arguments: Any, **_: Any) -> Any:
            put_by_hand(plain_settings, enrolled["image_name"])  # noqa: B023, called in this turn
            return await remove(*arguments)  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(adapter, method, late)
            rest = "" if method == "delete" else f"/pictures/{enrolled['id']}"
            assert (await plain.delete(f"/people/Ada{rest}")).status_code == 204
        await collect(plain_settings)
        assert known(plain_settings) == []


async def test_forgetting_that_stopped_half_way_can_be_repeated(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise DatabaseUnavailableError("gone")

    await enrol(plain, "Ada", ONE)
    with monkeypatch.context() as patch:
        patch.setattr(DatabasePeople, "delete", broken)
        assert (await plain.delete("/people/Ada")).status_code == 503
    (person,) = (await plain.get("/people")).json()["people"]
    assert person["name"] == "Ada"
    assert (await plain.delete("/people/Ada")).status_code == 204
    assert (await plain.get("/people")).json() == {"people": [], "next_cursor": None}
    await collect(plain_settings)
    assert known(plain_settings) == []


async def test_a_change_of_the_known_people_is_marked_once_it_is_made(
    client: httpx.AsyncClient, settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So whoever looks when there is the marker sees the change, and not what was before."""
    done: list[str] = []
    put, delete = ObjectStore.put, ObjectStore.delete

    async def noting_put(self: ObjectStore, key: str, content: bytes) -> None:
        if person := changed_person(key):
            names = [one["name"] for one in (await client.get("/people")).json()["people"]]
            key = f"{person} marked, of {names}"
        done.append(key)
        await put(self, key, content)

    async def noting_delete(self: ObjectStore, key: str) -> None:
        await delete(self, key)
        if not key.startswith("thumbnails/"):
            done.append(f"without {key}")

    monkeypatch.setattr(ObjectStore, "put", noting_put)
    monkeypatch.setattr(ObjectStore, "delete", noting_delete)
    key = "known_people/" + (await enrol(client, "Ada", ONE)).json()["image_name"]
    await client.delete("/people/Ada")
    await collect(settings)
    assert done == [key, "Ada marked, of ['Ada']", f"without {key}", "Ada marked, of []"]


async def test_a_marker_that_cannot_be_written_fails_nothing(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings
) -> None:
    folder = Path(plain_settings.object_store_url.removeprefix("file://"))
    (folder / "changes").write_bytes(b"in the way")
    enrolled = (await enrol(plain, "Ada", ONE)).json()
    assert known(plain_settings) == [enrolled["image_name"]]
    assert (await plain.delete("/people/Ada")).status_code == 204
    await collect(plain_settings)
    assert known(plain_settings) == []
