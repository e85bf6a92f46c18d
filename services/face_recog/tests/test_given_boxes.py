"""Faces in boxes that the caller gives, whether anybody would find one there or not."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from services.common.facerecog import face_pb2
from services.common.facerecog.client import RecogniserClient, encoding_of
from services.common.faces import MIN_SIDE, MOST_FACES, Box
from services.face_recog.adapters.models import Models, load_models
from services.face_recog.adapters.recognition import SearchedPicture, find
from services.face_recog.domain.engines import Embedder
from services.face_recog.domain.errors import RejectedError, Rejection
from services.face_recog.domain.faces import Encoding, check_boxes
from services.face_recog.domain.known_people import DEFAULT_TOLERANCE
from services.face_recog.tests.conftest import FaceRecog
from services.testing.damaged_pictures import save
from services.testing.samples import embedder
from services.testing.waiting import eventually

StartServer = Callable[..., FaceRecog]
Sides = tuple[int, int, int, int]


@pytest.fixture(scope="module", params=["classic", "centerface", "onnx"])
def models(request: pytest.FixtureRequest) -> Models:
    if request.param != "onnx":
        return load_models(request.param)
    brought = Embedder(embedder(), mean=127.0, scale=128.0, colours="RGB", size=512, distance=1.1)
    return load_models(brought)


@pytest.fixture(scope="module")
def two(astronaut: Image.Image, hopper: Image.Image) -> Image.Image:
    picture = Image.new("RGB", (1100, 620), (120, 130, 125))
    picture.paste(astronaut, (20, 10))
    picture.paste(hopper, (560, 15))
    return picture


def encodings(models: Models, found: SearchedPicture) -> list[Encoding]:
    return [models.encode(chip) for chip in found.chips]


def apart(one: Encoding, other: Encoding) -> float:
    return float(np.linalg.norm(one - other))


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_face_that_was_found_has_the_encoding_that_it_had(
    models: Models, two: Image.Image, quarters: int
) -> None:
    picture = save(two.rotate(90 * quarters, expand=True), "PNG")
    found = find(models, picture, 0)
    assert len(found.faces) == 2
    asked = [found.faces[1].box, found.faces[0].box, found.faces[1].box]
    given = find(models, picture, 1, asked)
    assert (given.width, given.height) == (found.width, found.height)
    assert [face.box for face in given.faces] == asked
    assert given.faces[:2] == [found.faces[1], found.faces[0]]
    before = encodings(models, found)
    after = encodings(models, given)
    assert [apart(after[0], before[1]), apart(after[1], before[0])] == [0, 0]
    assert apart(after[2], before[1]) < 0.2, "what somebody else has taken is looked for once more"


def test_a_box_of_another_engine_is_the_same_face(models: Models, two: Image.Image) -> None:
    picture = save(two, "PNG")
    own = find(models, picture, 0)
    for choice in ("classic", "centerface"):
        others = find(load_models(choice), picture, 0)
        given = encodings(models, find(models, picture, 0, [face.box for face in others.faces]))
        assert [apart(*pair) for pair in zip(given, encodings(models, own), strict=True)] == [0, 0]


def test_what_nobody_sees_is_encoded_where_it_was_drawn(
    models: Models, two: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = save(two, "PNG")
    found = find(models, picture, 0)
    before = encodings(models, found)
    # Of a detector that is blind dlib's landmarks are left.
    blind: Any = models if models.engine.name.startswith("dlib") else vars(models)["_detector"]
    name = "detect" if blind is models else "find"
    nothing: Any = [] if blind is models else blind.find(np.zeros((64, 64, 3), np.uint8), 1.0)
    monkeypatch.setattr(blind, name, lambda *_: nothing)
    drawn = find(models, picture, 0, [face.box for face in found.faces])
    assert [face.detection_score for face in drawn.faces] == [0, 0]
    for one, other in zip(encodings(models, drawn), before, strict=True):
        assert apart(one, other) < 0.4
    for its, other_face in zip(drawn.faces, found.faces, strict=True):
        assert its.quality
        assert other_face.quality
        assert its.quality.size == pytest.approx(other_face.quality.size, abs=0.05)


def test_a_face_that_is_too_small_to_be_found_is_seen_where_it_was_drawn(
    astronaut: Image.Image,
) -> None:
    models = load_models("centerface")
    picture = Image.new("RGB", (4000, 3000), (120, 130, 125))
    picture.paste(astronaut.resize((100, 100)), (1900, 1400))
    content = save(picture, quality=95)
    assert not find(models, content, 0).faces
    left, top, right, bottom = (round(side * 100 / 512) for side in (182, 58, 270, 178))
    box = Box(1900 + left, 1400 + top, 1900 + right, 1400 + bottom)
    given = find(models, content, 0, [box])
    assert given.faces[0].detection_score > 0.5
    [whole] = encodings(models, find(models, save(astronaut, "PNG"), 0))
    assert apart(encodings(models, given)[0], whole) < DEFAULT_TOLERANCE


@pytest.mark.parametrize(
    "sides", [(0, 0, 8, 8), (504, 504, 512, 512), (0, 0, 512, 8), (504, 0, 512, 512)]
)
def test_the_smallest_boxes_are_encoded(
    models: Models, astronaut: Image.Image, sides: Sides
) -> None:
    given = find(models, save(astronaut, "PNG"), 0, [Box(*sides)])
    assert np.isfinite(encodings(models, given)).all()


def test_a_box_of_a_pixel_of_what_is_decoded_is_encoded(models: Models) -> None:
    # Of a JPEG with very many pixels an eighth is decoded, and so of its boxes.
    pixels = np.zeros((64, 64, 3), np.uint8)
    for rectangle in ((0.0, 0.0, 1.0, 1.0), (63.0, 63.0, 64.0, 64.0), (5.2, 5.3, 6.2, 6.3)):
        chip, _ = models.chip(pixels, models.lay(pixels, rectangle).place)
        assert np.isfinite(models.encode(chip)).all()


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ([(0, 0, 9, 9)] * (MOST_FACES + 1), "1001 boxes are too many: 1000 at most"),
        ([(0, 0, 9, 9), (4, 4, 4, 40)], r"box 1, \(4, 4, 4, 40\), is 0 x 36 pixels"),
        ([(9, 9, 2, 2)], r"box 0, \(9, 9, 2, 2\), is -7 x -7 pixels: a face has at least 8"),
        ([(0, 0, 90, MIN_SIDE - 1)], "is 90 x 7 pixels"),
    ],
)
def test_what_is_no_box_is_told(boxes: Sequence[Sides], reason: str) -> None:
    with pytest.raises(RejectedError, match=reason) as told:
        check_boxes([Box(*sides) for sides in boxes])
    assert told.value.rejection is Rejection.INVALID_REQUEST


async def test_boxes_over_the_wire(
    face_recog: StartServer, two: Image.Image, small_hopper: bytes
) -> None:
    server = face_recog()
    picture = save(two, "PNG")
    client = RecogniserClient(server.target, timeout=60)
    await eventually(client.engine, seconds=60)
    before = await client.identify(picture)
    counted = server.metric('facestack_faces_total{result="known"}')
    asked = [box_of(face) for face in before.faces]
    given = await client.identify(picture, boxes=asked[::-1])
    assert given.engine == await client.engine() == before.engine
    assert [face.SerializeToString() for face in given.faces] == [
        face.SerializeToString() for face in reversed(before.faces)
    ]
    assert {face.candidates[0].person for face in given.faces} == {"Eileen Collins", "Grace Hopper"}
    assert server.metric('facestack_faces_total{result="known"}') == counted == 2
    [drawn] = (await client.identify(picture, boxes=[Box(30, 400, 130, 500)])).faces
    assert (drawn.detection_score, len(encoding_of(drawn) or b"")) == (0, 512)
    for boxes, word in (
        ([Box(1000, 500, 1101, 600)], "box 0, (1000, 500, 1101, 600), reaches beyond the picture"),
        ([Box(0, 0, 50, 50), Box(5, 5, 9, 90)], "box 1, (5, 5, 9, 90), is 4 x 85 pixels"),
        ([Box(0, 0, 50, 50)] * 1001, "1001 boxes"),
    ):
        wrong = await client.identify(picture, boxes=boxes)
        assert wrong.status == face_pb2.STATUS_INVALID_REQUEST
        assert word in wrong.reason
    assert (await client.identify(small_hopper)).image_name == "Grace Hopper/g.jpg"
    await client.close()


def box_of(face: face_pb2.Face) -> Box:
    return Box(face.box.left, face.box.top, face.box.right, face.box.bottom)
