"""The page of search, as the receiver answers."""

import re
from typing import Any

import httpx
import pytest

from services.frontend.domain.search import FoundFace
from services.frontend.tests.fake_receiver import FakeReceiver, face_json, image_json, problem

BOX = {"left": 1, "top": 2, "right": 30, "bottom": 40}


def found_json(image_id: int, strangers: float, **values: Any) -> dict[str, Any]:
    """A stored face as the receiver describes it."""
    known = {"face_index": 0, "box": BOX, "person": None, "person_id": None, "distance": 0.25}
    return {"image_id": image_id, "strangers": strangers, **known, **values}


def result(*found: dict[str, Any], faces: int = 0, searched: int | None = None) -> httpx.Response:
    boxes = [{"index": index, "box": BOX} for index in range(faces)]
    return httpx.Response(200, json={"faces": boxes, "searched": searched, "found": found})


def links(html: str) -> list[str]:
    return re.findall(r'class="found-face" href="([^"]*)"', html)


@pytest.mark.parametrize(
    ("strangers", "words"),
    [
        (0.0, "Surely the same person"),
        (1.0, "Surely the same person"),
        (1.1, "Very likely the same person"),
        (100.0, "Very likely the same person"),
        (10_000.0, "Perhaps the same person"),
        (10_100.0, "Looks similar"),
    ],
)
def test_how_sure_it_is_stands_there_in_words(strangers: float, words: str) -> None:
    found = FoundFace(
        image_id=1, face_index=0, person=None, person_id=None, distance=0.2, strangers=strangers
    )
    assert found.sure == words


async def test_the_page_asks_for_a_picture(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    answer = await pages.get("/search")
    assert answer.status_code == 200
    assert 'type="file" name="file"' in answer.text
    assert '<a href="/search" aria-current="page">' in answer.text
    assert receiver.calls == []


async def test_a_picture_is_passed_on_and_what_is_found_shown_nearest_first(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.answers = {
        "POST /search": result(
            found_json(9, 0.5, person="<Ada>", person_id=3),
            found_json(4, 400.0, face_index=2),
            found_json(5, 1e6),
            faces=2,
            searched=0,
        )
    }
    answer = await pages.post("/search", files={"file": ("a.jpg", b"content")})
    assert answer.status_code == 200
    assert receiver.calls == ["POST /search"]
    assert b"content" in receiver.bodies[0]
    assert links(answer.text) == ["/images/9", "/images/4", "/images/5"]
    assert "2 faces of the same person" in answer.text
    assert "1 other that looks similar" in answer.text
    assert '<a href="/people/~3"><bdi>&lt;Ada&gt;</bdi></a>' in answer.text, "whose page it is"
    assert answer.text.count('href="/people/~') == 1, "somebody unknown has none"
    assert 'src="/images/4/faces/2/thumbnail"' in answer.text
    assert 'name="face" value="1" aria-pressed="false"' in answer.text
    await pages.post("/search", files={"file": ("a.jpg", b"content")}, data={"face": "1"})
    assert receiver.calls[1:] == ["POST /search?face=1"]


async def test_a_stored_face_is_looked_for_by_its_address(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.images = [image_json(8, faces=[face_json(0), face_json(1)])]
    assert 'href="/search?image=8&amp;face=1"' in (await pages.get("/images/8")).text
    receiver.answers = {"POST /search": result()}
    answer = await pages.get("/search?image=8&face=1")
    assert receiver.sent("POST /search") == {"image_id": 8, "face_index": 1}
    assert "No faces of the same person" in answer.text
    assert "No face is stored yet" in answer.text


@pytest.mark.parametrize(
    ("refusal", "status", "words"),
    [
        (problem(422, "no face was found in this picture"), 422, "No face was found in this"),
        (problem(503, "faces cannot be looked for now"), 503, "Faces cannot be looked for now."),
        (problem(404, "image 8 has no face 1"), 404, "Image 8 has no face 1."),
    ],
)
async def test_why_nothing_was_searched_stands_on_the_page(
    pages: httpx.AsyncClient,
    receiver: FakeReceiver,
    refusal: httpx.Response,
    status: int,
    words: str,
) -> None:
    receiver.answers = {"POST /search": refusal}
    for answer in (
        await pages.post("/search", files={"file": ("a.jpg", b"content")}),
        await pages.get("/search?image=8&face=1"),
    ):
        assert answer.status_code == status
        assert words in answer.text
        assert 'type="file" name="file"' in answer.text, "one may try another"


async def test_a_form_without_a_picture_or_with_too_much_is_refused(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    for files, data, status, words in (
        ({"file": ("", b"")}, {}, 422, "Choose a picture."),
        ({"file": ("a.jpg", b"x")}, {"face": "two"}, 422, "There is no such face."),
        ({"file": ("a.jpg", bytes(22 * 2**20))}, {}, 413, "larger than 20 MB"),
        (None, {"face": "0"}, 422, "Choose one picture."),
    ):
        answer = await pages.post("/search", files=files, data=data)
        assert (answer.status_code, words in answer.text) == (status, True)
        assert 'type="file" name="file"' in answer.text, "one may try another"
    receiver.away = True
    answer = await pages.get("/search?image=8&face=1")
    assert answer.status_code == 503
    assert "Try again in a moment." in answer.text
    assert receiver.calls == []
