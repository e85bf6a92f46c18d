"""The page of one picture, and what is done with it and its faces."""

import httpx
import pytest

from services.frontend.tests.fake_receiver import (
    DOUBT,
    FakeReceiver,
    face_json,
    image_json,
    problem,
)


async def test_only_allowed_actions_are_offered(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    for status in ("pending", "processing", "processed", "failed", "rejected", "dead"):
        receiver.images = [image_json(1, status=status)]
        for path in ("/", "/images/1"):
            html = (await pages.get(path)).text
            assert ('action="/images/1/retry"' in html) == (status in {"rejected", "dead"})
            assert 'action="/images/1/delete"' in html


async def test_another_look_is_offered_unless_it_would_forget_a_name(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    by_machine = face_json(person="Ada", distance=0.3)
    by_hand = face_json(1, person="Zoë", decided_by="hand")
    for faces, offered in (([], True), ([by_machine], True), ([by_machine, by_hand], False)):
        receiver.images = [image_json(1, faces=faces)]
        html = (await pages.get("/images/1")).text
        assert ('action="/images/1/recognise"' in html) == offered
    for status in ("pending", "processing", "failed", "rejected", "dead"):
        receiver.images = [image_json(1, status=status)]
        assert 'action="/images/1/recognise"' not in (await pages.get("/images/1")).text


async def test_a_missing_picture_is_not_found(pages: httpx.AsyncClient) -> None:
    assert (await pages.get("/images/1")).status_code == 404
    assert (await pages.get("/fragments/images/1")).status_code == 404


async def test_a_busy_receiver_does_not_make_a_picture_missing(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.answers = {"GET /images/1": problem(429, "too many requests")}
    assert (await pages.get("/images/1")).status_code == 503
    assert (await pages.get("/fragments/images/1")).headers["Facestack-Available"] == "no"


async def test_what_was_deleted_meanwhile_counts_as_deleted(pages: httpx.AsyncClient) -> None:
    # The fake answers 404.
    for path in ("/images/1/delete", "/people/Ada/delete", "/people/Ada/pictures/1/delete"):
        answer = await pages.post(path, headers={"Accept": "application/json"})
        assert answer.status_code == 200


async def test_a_face_gets_a_name(pages: httpx.AsyncClient, receiver: FakeReceiver) -> None:
    call = "POST /people/Ada%20%C3%84%3FB/pictures"
    receiver.answers = {call: httpx.Response(201)}
    answer = await pages.post("/images/5/faces/2/name", data={"person": "  Ada Ä?B "})
    assert answer.headers["Location"] == "/images/5"
    sent = receiver.sent(call)
    assert sent == {"image_id": 5, "face_index": 2}


async def test_a_refused_name_is_shown_beside_the_face_with_what_was_typed(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.images = [image_json(5, faces=[face_json(0), face_json(1)])]
    receiver.answers = {"POST /people/Ada/pictures": problem(422, "no face was found")}
    answer = await pages.post("/images/5/faces/1/name", data={"person": "Ada"})
    assert answer.status_code == 422
    first, second = answer.text.split('data-key="face-1"')
    assert "No face was found." not in first
    assert "No face was found." in second
    assert 'value="Ada"' in second


async def test_a_face_in_doubt_is_named_when_somebody_insists(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.images = [image_json(5, faces=[face_json(0), face_json(1)])]
    receiver.answers = {
        "POST /people/Ada/pictures": DOUBT,
        "POST /people/Ada/pictures?insist=true": httpx.Response(201),
    }
    button = '<button class="button quiet" name="insist" value="true">'
    assert button not in (await pages.get("/images/5")).text
    answer = await pages.post("/images/5/faces/1/name", data={"person": "Ada"})
    assert answer.status_code == 422
    first, second = answer.text.split('data-key="face-1"')
    assert button not in first
    assert button in second
    assert "The face is blurred: choose a sharper picture.</p>" in second
    insisted = await pages.post("/images/5/faces/1/name", data={"person": "Ada", "insist": "true"})
    assert insisted.headers["Location"] == "/images/5"


async def test_other_refusals_cannot_be_overruled(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.answers = {"POST /people/Ada/pictures": problem(422, "2 faces found")}
    answer = await pages.post(
        "/people",
        data={"person": "Ada"},
        files={"file": ("ada.jpg", b"picture")},
        headers={"Accept": "application/json"},
    )
    assert answer.json() == {"message": "2 faces found."}


@pytest.mark.parametrize(
    ("flaw", "score", "shown"),
    [("blurred", 0.25, "Quality: blurred"), (None, 0.75, "Quality: good")],
)
async def test_the_quality_of_a_face_is_shown(
    pages: httpx.AsyncClient, receiver: FakeReceiver, flaw: str | None, score: float, shown: str
) -> None:
    quality = {"score": score, "flaw": flaw, "size": 1, "sharpness": score, "pose": 1, "light": 1}
    receiver.images = [image_json(5, faces=[face_json(0, quality=quality)])]
    text = (await pages.get("/images/5")).text
    assert shown in text
    assert f'<span class="number">{score}</span>' in text
    assert f"sharpness {score}" in text


@pytest.mark.parametrize("values", [{}, {"quality": None}], ids=["older receiver", "older result"])
async def test_a_face_without_a_quality_says_nothing_of_it(
    pages: httpx.AsyncClient, receiver: FakeReceiver, values: dict[str, None]
) -> None:
    receiver.images = [image_json(5, faces=[face_json(0, **values)])]
    assert "Quality" not in (await pages.get("/images/5")).text


@pytest.mark.parametrize("name", ["..", ".", "../images/5", "a/b"])
async def test_a_name_never_leads_elsewhere(
    pages: httpx.AsyncClient, receiver: FakeReceiver, name: str
) -> None:
    receiver.images = [image_json(5, faces=[face_json(0)])]
    answer = await pages.post("/images/5/faces/0/name", data={"person": name})
    assert answer.status_code == 422
    assert not [call for call in receiver.calls if call.startswith("POST")]


async def test_a_name_of_the_machine_is_denied_and_allowed_again(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    ada = {
        "person": "Ada Ä?B",
        "person_id": 3,
        "distance": 0.25,
        "decided_by": "machine",
        "denials": ["Eve"],
        "denial_ids": [9],
    }
    for face, offered in (
        (ada, True),
        ({**ada, "decided_by": "hand", "distance": None}, False),
        ({**ada, "person": None}, False),
        ({**ada, "denials": None, "denial_ids": None}, False),  # an older receiver takes none
    ):
        receiver.images = [image_json(5, faces=[face_json(0, **face)])]
        shown = (await pages.get("/images/5")).text
        assert ("Not <bdi>Ada Ä?B</bdi>" in shown) == offered
        assert ('name="person" value="~3"' in shown) == offered
        assert ("Not <bdi>Eve</bdi>" in shown) == (face["denials"] is not None)
        assert ('name="person" value="~9"' in shown) == (face["denials"] is not None)
    for verb, method in (("deny", "PUT"), ("allow", "DELETE")):
        operation = f"{method} /images/5/faces/0/denials/Ada%20%C3%84%3FB"
        receiver.answers[operation] = httpx.Response(204)
        answer = await pages.post(f"/images/5/faces/0/{verb}", data={"person": "Ada Ä?B"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/images/5")
        assert receiver.calls[-1] == operation


async def test_a_name_is_needed(pages: httpx.AsyncClient, receiver: FakeReceiver) -> None:
    receiver.images = [image_json(5, faces=[face_json(0)])]
    answer = await pages.post("/images/5/faces/0/name", data={"person": "  "})
    assert answer.status_code == 422
    assert "Enter a name." in answer.text
