"""The forms of faces that are drawn and struck out, on a receiver that answers from memory."""

import httpx
import pytest

from services.frontend.tests.fake_receiver import FakeReceiver, face_json, image_json, problem


async def test_an_older_receiver_is_asked_for_nothing_that_it_cannot_do(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.images = [image_json(1, faces=[face_json()])]
    html = (await pages.get("/images/1")).text
    assert "Add a face" not in html
    assert "No face</button>" not in html
    receiver.images = [image_json(1, faces=[face_json()], struck_out=[])]
    html = (await pages.get("/images/1")).text
    assert "Add a face" in html
    assert "No face</button>" in html


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "Draw a box around the face first."),
        ({"left": "1", "top": "1", "right": "9"}, "Draw a box around the face first."),
        ({"left": "1", "top": "1", "right": "9", "bottom": "-9"}, "four whole numbers"),
        ({"left": "1", "top": "1", "right": "9", "bottom": "9" * 40}, "four whole numbers"),
        ({"left": "1", "top": "1", "right": "9", "bottom": "٩"}, "four whole numbers"),
        ({"left": "1", "top": "1", "right": "9", "bottom": "9.5"}, "four whole numbers"),
    ],
)
async def test_a_form_without_a_box_is_refused_with_the_reason(
    pages: httpx.AsyncClient, receiver: FakeReceiver, fields: dict[str, str], message: str
) -> None:
    answer = await pages.post("/images/1/faces", data=fields)
    assert answer.status_code == 422
    assert message in answer.text
    assert receiver.calls == []


async def test_what_the_receiver_refuses_is_said(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.answers["POST /images/1/faces"] = problem(409, "that is face 0 of image 1: name it")
    fields = {"left": "1", "top": "2", "right": "30", "bottom": "40", "person": " Ada "}
    answer = await pages.post("/images/1/faces", data=fields)
    assert answer.status_code == 409
    assert "That is face 0 of image 1: name it." in answer.text
    assert receiver.sent("POST /images/1/faces") == {
        "box": {"left": 1, "top": 2, "right": 30, "bottom": 40},
        "name": "Ada",
        "another": False,
    }
