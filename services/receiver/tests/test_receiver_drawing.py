"""Somebody draws a face that was missed, or strikes out what is none; it stays so."""

import asyncio
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
import structlog
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from services.common.clock import database_now
from services.common.database import Database
from services.common.facerecog import face_pb2
from services.common.faces import MIN_SIDE, MOST_FACES, Box
from services.common.quality import Flaw
from services.common.tables import (
    face_denials,
    face_encodings,
    faces,
    garbage,
    images,
    person_images,
)
from services.image_processor.adapters.encoding_rows import DatabaseEncodingRows
from services.people.adapters.rows import DatabaseStoredFaces
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import FakeRecogniser, collect, draw, encode
from services.receiver.tests.test_receiver_people import enrol, known, quality, seed_faces
from services.receiver.tests.test_receiver_said_by_hand import (
    by_machine,
    id_of,
    name,
    noted,
    run,
    work,
)

FACE = (10, 10, 50, 50)
MISSED = (60, 10, 100, 50)
TWO = encode(draw(("red", FACE), ("green", MISSED), size=(120, 60)))
ENCODING = np.ones(128, np.float32).tobytes()


def box_of(sides: tuple[int, int, int, int]) -> dict[str, int]:
    return dict(zip(("left", "top", "right", "bottom"), sides, strict=True))


async def seed(
    client: httpx.AsyncClient, settings: ReceiverSettings, *boxes: tuple[int, int, int, int]
) -> int:
    """Store the picture of two, of which the machine has found one; it is processed."""
    image_id = await seed_faces(client, settings, TWO, *(boxes or (FACE,)))
    await run(settings, sa.update(images).values(width=120, height=60, processed_at=7))
    return image_id


async def drawn(
    client: httpx.AsyncClient, image_id: int, sides: tuple[int, int, int, int] = MISSED, **more: Any
) -> httpx.Response:
    return await client.post(f"/images/{image_id}/faces", json={"box": box_of(sides), **more})


async def encoded(settings: ReceiverSettings) -> list[tuple[Any, ...]]:
    its = face_encodings.c
    return await run(settings, sa.select(its.face_index, its.engine).order_by(its.face_index))


async def test_why_a_drawn_face_is_no_known_picture_is_logged_without_a_name(
    client: httpx.AsyncClient, settings: ReceiverSettings, recogniser: FakeRecogniser
) -> None:
    image_id = await seed(client, settings)
    like_bea = face_pb2.Candidate(person="Bea", image_name="Bea/1.jpg", distance=0.25)
    recogniser.face = face_pb2.Face(encoding=ENCODING, candidates=[like_bea])
    with structlog.testing.capture_logs() as lines:
        assert (await drawn(client, image_id, name="Ada")).status_code == 201
    [line] = [line for line in lines if line["event"] == "no known picture"]
    assert line["reason"]
    assert "Ada" not in repr(lines)
    assert "Bea" not in repr(lines)


async def test_a_missed_face_is_drawn_and_named(
    client: httpx.AsyncClient, settings: ReceiverSettings, recogniser: FakeRecogniser
) -> None:
    recogniser.face = face_pb2.Face(encoding=ENCODING)
    image_id = await seed(client, settings)
    await noted(settings)
    answer = await drawn(client, image_id, name="Ada")
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"/images/{image_id}"
    found, new = answer.json()["faces"]
    assert (found["index"], found["drawn"], new["index"], new["drawn"]) == (0, False, 1, True)
    assert new["box"] == box_of(MISSED)
    ada = await id_of(client, "Ada")
    assert (new["person"], new["person_id"], new["decided_by"]) == ("Ada", ada, "hand")
    assert await encoded(settings) == [(1, "fake")]
    assert len(known(settings)) == 1, "it is fit to be a known picture"
    assert await work(settings) == {ada: ("Ada", False)}
    assert await noted(settings) == {("image", image_id), ("person", ada)}
    # Later ones get the next number, also after one is struck out.
    assert (await client.delete(f"/images/{image_id}/faces/1")).status_code == 204
    third = (await drawn(client, image_id)).json()
    assert [(one["index"], one["person"]) for one in third["faces"]] == [(0, None), (2, None)]
    assert [one["index"] for one in third["struck_out"]] == [1]


@pytest.mark.parametrize(
    "face",
    [
        face_pb2.Face(quality=quality(Flaw.SMALL)),
        face_pb2.Face(like_person=False),
        face_pb2.Face(
            candidates=[face_pb2.Candidate(person="Eve", image_name="Eve/1.jpg", distance=0.3)]
        ),
    ],
    ids=["small", "unlike", "like somebody else"],
)
async def test_what_is_not_fit_to_be_a_known_picture_is_named_all_the_same(
    client: httpx.AsyncClient,
    settings: ReceiverSettings,
    recogniser: FakeRecogniser,
    face: face_pb2.Face,
) -> None:
    image_id = await seed(client, settings)
    recogniser.face = face
    answer = await drawn(client, image_id, name="Ada")
    assert answer.status_code == 201, answer.text
    assert [one["person"] for one in answer.json()["faces"]] == [None, "Ada"]
    assert known(settings) == []
    # It is taken back as any name is.
    await client.delete(f"/images/{image_id}/faces/1/person")
    document = (await client.get(f"/images/{image_id}")).json()
    assert document["faces"][1]["decided_by"] == "machine"


async def test_without_a_name_the_machine_says_who_it_is(
    client: httpx.AsyncClient, settings: ReceiverSettings, recogniser: FakeRecogniser
) -> None:
    enrolled = await enrol(client, "Ada", encode(draw(("blue", FACE), size=(60, 60))))
    ada = enrolled.json()["person_id"]
    image_id = await seed(client, settings)
    await work(settings)
    one = face_pb2.Candidate(
        person="Ada", image_name=enrolled.json()["image_name"], distance=0.25, likeness=7.0
    )
    recogniser.face = face_pb2.Face(candidates=[one], outcome=face_pb2.OUTCOME_NAMED)
    new = (await drawn(client, image_id)).json()["faces"][1]
    assert (new["person"], new["person_id"], new["distance"]) == ("Ada", ada, 0.25)
    assert (new["decided_by"], new["ambiguous"]) == ("machine", False)
    assert await work(settings) == {ada: ("Ada", False)}, "decided with the picture's other faces"

    # Who is unsure is a question; and who is in the picture already is nobody else in it.
    await client.delete(f"/images/{image_id}/faces/1")
    recogniser.face.outcome = face_pb2.OUTCOME_UNSURE
    asked = (await drawn(client, image_id)).json()["faces"][1]
    assert (asked["person"], asked["ambiguous"], len(asked["candidates"])) == (None, True, 1)
    await client.delete(f"/images/{image_id}/faces/2")
    recogniser.face.outcome = face_pb2.OUTCOME_NAMED
    await by_machine(settings, image_id, "Ada", person_id=ada)
    await run(settings, sa.update(faces).where(faces.c.struck_out).values(person_id=None))
    other = (await drawn(client, image_id)).json()["faces"][1]
    assert (other["person"], other["ambiguous"], other["candidates"]) == (None, False, [])


@pytest.mark.parametrize(
    ("sides", "status", "reason"),
    [
        ((60, 10, 67, 50), 422, "7 x 40 pixels: a face has at least 8"),
        ((60, 10, 100, 17), 422, "40 x 7 pixels"),
        ((100, 10, 60, 50), 422, "left is less than right"),
        ((60, 50, 100, 10), 422, "top less than bottom"),
        ((60, 10, 121, 50), 422, "beyond the picture, which has 120 x 60"),
        ((60, 10, 100, 61), 422, "beyond the picture"),
        ((-1, 10, 40, 50), 422, "greater than or equal to 0"),
        ((60, 10, 2**31, 50), 422, "less than or equal to"),
        ((60, 10, 10**30, 50), 422, "less than or equal to"),
        ((12, 12, 50, 50), 409, "that is face 0 of image"),
    ],
)
async def test_a_wrong_box_is_refused_with_the_reason(
    client: httpx.AsyncClient,
    settings: ReceiverSettings,
    sides: tuple[int, int, int, int],
    status: int,
    reason: str,
) -> None:
    image_id = await seed(client, settings)
    answer = await drawn(client, image_id, sides, name="Ada")
    assert answer.status_code == status, answer.text
    assert reason in answer.text
    assert len((await client.get(f"/images/{image_id}")).json()["faces"]) == 1
    assert (await client.get("/people")).json()["people"] == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"box": None},
        {"box": [60, 10, 100, 50]},
        {"box": {"left": 60, "top": 10, "right": 100}},
        {"box": {"left": 60.5, "top": 10, "right": 100, "bottom": 50}},
        {"box": {"left": "60", "top": 10, "right": 100, "bottom": 50}},
        {"box": {"left": True, "top": 10, "right": 100, "bottom": 50}},
        {"box": box_of(MISSED), "name": "a/b"},
        {"box": box_of(MISSED), "name": ""},
        {"box": box_of(MISSED), "name": 7},
    ],
)
async def test_a_wrong_document_is_refused(
    client: httpx.AsyncClient, settings: ReceiverSettings, body: Any
) -> None:
    image_id = await seed(client, settings)
    answer = await client.post(f"/images/{image_id}/faces", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"]
    assert len((await client.get(f"/images/{image_id}")).json()["faces"]) == 1


@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sides=st.tuples(*[st.integers(-5, 130) | st.integers()] * 4))
async def test_any_box_is_drawn_or_refused_and_never_stored_wrong(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings, sides: tuple[int, int, int, int]
) -> None:
    image_id = await seed_once(plain, plain_settings)
    before = (await plain.get(f"/images/{image_id}")).json()["faces"]
    answer = await drawn(plain, image_id, sides)
    left, top, right, bottom = sides
    fits = (
        0 <= left <= right - MIN_SIDE
        and right <= 120
        and 0 <= top <= bottom - MIN_SIDE
        and bottom <= 60
    )
    free = fits and all(Box(**one["box"]).share(Box(*sides)) < 0.5 for one in before)
    assert answer.status_code == (201 if free else 409 if fits else 422), answer.text
    after = (await plain.get(f"/images/{image_id}")).json()["faces"]
    assert [one["box"] for one in after] == [
        *(one["box"] for one in before),
        *([box_of(sides)] if free else []),
    ]


async def seed_once(client: httpx.AsyncClient, settings: ReceiverSettings) -> int:
    [[image_id]] = await run(settings, sa.select(sa.func.max(images.c.id)))
    return image_id or await seed(client, settings)


@given(
    one=st.builds(Box, *[st.integers(0, 200)] * 4), other=st.builds(Box, *[st.integers(0, 200)] * 4)
)
def test_boxes_share_something_between_nothing_and_all(one: Box, other: Box) -> None:
    assert 0 <= one.share(other) == other.share(one) <= 1 or one.area <= 0 or other.area <= 0
    if one.left < one.right and one.top < one.bottom:
        assert one.share(one) == 1


@pytest.mark.parametrize("status", ["pending", "processing", "failed", "rejected", "dead"])
async def test_a_picture_without_a_result_takes_no_face(
    client: httpx.AsyncClient, settings: ReceiverSettings, status: str
) -> None:
    image_id = await seed(client, settings)
    await run(settings, sa.update(images).values(status=status))
    answer = await drawn(client, image_id)
    assert answer.status_code == 409
    assert f"image {image_id} is {status}: a face is drawn once" in answer.json()["detail"]


async def test_what_is_not_there_is_not_found(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    image_id = await seed(client, settings)
    assert (await drawn(client, image_id + 1)).status_code == 404
    assert (await client.delete(f"/images/{image_id}/faces/1")).status_code == 404
    assert (await client.delete(f"/images/{image_id + 1}/faces/0")).status_code == 404
    assert (await client.post(f"/images/{image_id}/faces/1/restore")).status_code == 404
    assert (await client.post(f"/images/{image_id}/faces/0/restore")).status_code == 409
    await run(settings, sa.update(images).values(path="uploads/gone"))
    assert (await drawn(client, image_id)).status_code == 404


async def test_an_image_takes_only_so_many_faces(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    """More than face_recog encodes at once could not be encoded by another engine."""
    image_id = await seed(client, settings)
    row = {"image_id": image_id, "detection_score": 1.0, "ambiguous": False, "candidates": []}
    rows = [
        {**row, **box_of(FACE), "face_index": index, "struck_out": True}
        for index in range(1, MOST_FACES)
    ]
    await run(settings, sa.insert(faces).values(rows))
    answer = await drawn(client, image_id)
    assert answer.status_code == 409
    assert "1000 faces" in answer.json()["detail"]


async def test_a_box_of_a_result_that_is_gone_meanwhile_is_refused(
    client: httpx.AsyncClient, settings: ReceiverSettings, recogniser: FakeRecogniser
) -> None:
    image_id = await seed(client, settings)
    # As if it were looked at again while the recogniser encodes the box.
    recogniser.may_answer.clear()
    drawing = asyncio.create_task(drawn(client, image_id, name="Ada"))
    await recogniser.was_asked.wait()
    await run(settings, sa.update(images).values(processed_at=8))
    recogniser.may_answer.set()
    answer = await drawing
    assert answer.status_code == 409, answer.text
    assert "looked at again" in answer.json()["detail"]
    assert len((await client.get(f"/images/{image_id}")).json()["faces"]) == 1
    assert (await client.get("/people")).json()["people"] == []


async def test_two_who_draw_the_same_face_draw_it_once(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    image_id = await seed(client, settings)
    answers = await asyncio.gather(*(drawn(client, image_id, name="Ada") for _ in range(4)))
    assert sorted(one.status_code for one in answers) == [201, 409, 409, 409]
    assert len((await client.get(f"/images/{image_id}")).json()["faces"]) == 2


async def test_what_is_no_face_is_struck_out_and_stays_out(
    client: httpx.AsyncClient, settings: ReceiverSettings, recogniser: FakeRecogniser
) -> None:
    image_id = await seed(client, settings)
    enrolled = (await name(client, image_id, "Ada")).json()
    ada = enrolled["person_id"]
    await enrol(client, "Eve", encode(draw(("blue", FACE), size=(60, 60))))
    assert (await client.put(f"/images/{image_id}/faces/0/denials/Eve")).status_code == 204
    its = {"image_id": image_id, "face_index": 0, "engine": "fake", "encoding": ENCODING}
    await run(settings, sa.insert(face_encodings).values(its))
    await work(settings)
    await noted(settings)
    await run(settings, sa.delete(garbage))

    assert (await client.delete(f"/images/{image_id}/faces/0")).status_code == 204
    document = (await client.get(f"/images/{image_id}")).json()
    assert document["faces"] == []
    assert document["struck_out"] == [{"index": 0, "box": box_of(FACE)}]
    assert await encoded(settings) == []
    assert await work(settings) == {ada: ("Ada", True)}
    assert await noted(settings) == {("image", image_id), ("person", ada)}
    going = {key for (key,) in await run(settings, sa.select(garbage.c.object_key))}
    assert any(key.startswith("thumbnails/") and "10" in key for key in going), going
    assert f"known_people/{enrolled['image_name']}" in going
    assert (await run(settings, sa.select(sa.func.count()).select_from(person_images))) == [(1,)]
    assert (await run(settings, sa.select(sa.func.count()).select_from(face_denials))) == [(1,)]
    assert (await client.get("/images", params={"person": "Ada"})).json()["images"] == []
    for method, address in (
        ("DELETE", ""),
        ("PUT", "/person"),
        ("DELETE", "/person"),
        ("PUT", "/denials/Eve"),
        ("DELETE", "/denials/Eve"),
        ("GET", "/thumbnail"),
    ):
        answer = await client.request(
            method,
            f"/images/{image_id}/faces/0{address}",
            json={"name": "Ada"} if address == "/person" else None,
        )
        assert answer.status_code == 404, (method, address, answer.text)
    await collect(settings)
    assert len(known(settings)) == 1


async def test_a_struck_out_face_comes_back_as_the_machine_sees_it(
    client: httpx.AsyncClient, settings: ReceiverSettings, recogniser: FakeRecogniser
) -> None:
    enrolled = await enrol(client, "Ada", encode(draw(("blue", FACE), size=(60, 60))))
    image_id = await seed(client, settings)
    await drawn(client, image_id, name="Ada")
    assert (await client.put(f"/images/{image_id}/faces/0/denials/Ada")).status_code == 204
    for index in (0, 1):
        assert (await client.delete(f"/images/{image_id}/faces/{index}")).status_code == 204
    one = face_pb2.Candidate(
        person="Ada", image_name=enrolled.json()["image_name"], distance=0.25, likeness=7.0
    )
    recogniser.face = face_pb2.Face(
        candidates=[one], outcome=face_pb2.OUTCOME_NAMED, encoding=ENCODING
    )
    denied, machine = "denied before", "the machine's"
    for index, expected in ((0, denied), (1, machine)):
        answer = await client.post(f"/images/{image_id}/faces/{index}/restore")
        assert answer.status_code == 200, answer.text
        [face] = [face for face in answer.json()["faces"] if face["index"] == index]
        assert face["person"] == (None if expected == denied else "Ada")
        assert face["decided_by"] == "machine"
        assert face["drawn"] == bool(index)
    assert await encoded(settings) == [(0, "fake"), (1, "fake")]
    assert (await client.post(f"/images/{image_id}/faces/0/restore")).status_code == 409
    # Where a better box has been drawn, there is no room for the old one.
    await client.delete(f"/images/{image_id}/faces/1")
    assert (await drawn(client, image_id)).status_code == 201
    refused = await client.post(f"/images/{image_id}/faces/1/restore")
    assert refused.status_code == 409
    assert "that is face 2" in refused.json()["detail"]


@pytest.mark.parametrize("what", ["drawn", "struck out"])
async def test_what_was_drawn_or_struck_out_is_not_forgotten_for_a_new_result(
    client: httpx.AsyncClient, settings: ReceiverSettings, what: str
) -> None:
    image_id = await seed(client, settings)
    if what == "drawn":
        await drawn(client, image_id)
    else:
        await client.delete(f"/images/{image_id}/faces/0")
    before = (await client.get(f"/images/{image_id}")).json()
    for again in ("recognise", "retry"):
        answer = await client.post(f"/images/{image_id}/{again}")
        assert answer.status_code == 409, answer.text
    assert ("face 1 was drawn" if what == "drawn" else "face 0 is none") in (
        (await client.post(f"/images/{image_id}/recognise")).json()["detail"]
    )
    assert (await client.get(f"/images/{image_id}")).json() == before


async def test_no_machine_touches_what_was_struck_out(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    """Neither is it given an encoding, nor one that an image_processor of before gives it used."""
    image_id = await seed(client, settings, FACE, MISSED)
    await client.delete(f"/images/{image_id}/faces/0")
    database = Database(settings)
    lacking = await DatabaseEncodingRows(database, database_now).faces(image_id, "fake")
    assert lacking is not None
    assert set(lacking.boxes) == {1}
    its = {"image_id": image_id, "face_index": 0, "engine": "fake", "encoding": ENCODING}
    await run(settings, sa.insert(face_encodings).values(its))
    [picture] = await DatabaseStoredFaces(database, database_now).pictures([image_id], "fake")
    assert [face.index for face in picture.faces] == [1]
    # It goes when faces without an encoding are looked for, which here is the other one.
    its = {"image_id": image_id, "face_index": 1, "engine": "other", "encoding": ENCODING}
    await run(settings, sa.insert(face_encodings).values(its))
    assert await DatabaseEncodingRows(database, database_now).count("fake", 0, image_id) == 1
    assert await encoded(settings) == [(1, "other")]
    await database.close()
    # A service of before knows no such faces, but what a hand has said.
    columns = (faces.c.decided_by, faces.c.person)
    where = faces.c.face_index == 0
    assert await run(settings, sa.select(*columns).where(where)) == [("hand", None)]
