"""The page of pictures, and uploads."""

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
import pytest

from services.frontend.adapters.receiver.connection import ReceiverConnection
from services.frontend.tests.fake_receiver import (
    FakeReceiver,
    face_json,
    image_json,
    person_json,
)

NASTY = "<img src=x onerror=1>.jpg"


def cards(html: str) -> list[str]:
    return re.findall(r'data-key="(image-\d+)"', html)


async def test_pictures_are_listed_in_the_order_of_the_receiver(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.images = [image_json(3), image_json(2), image_json(1)]
    answer = await pages.get("/")
    assert answer.status_code == 200
    assert cards(answer.text) == ["image-3", "image-2", "image-1"]


async def test_an_empty_page_says_what_to_do(pages: httpx.AsyncClient) -> None:
    assert "No pictures yet" in (await pages.get("/")).text


async def test_filters_and_cursor_reach_the_receiver_and_stay_in_the_links(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.images = [image_json(1)]
    receiver.next_cursor = "older&more"
    answer = await pages.get("/", params={"status": "dead", "person": "A & B", "cursor": "c=1"})
    assert "GET /images?status=dead&person=A+%26+B&cursor=c%3D1&limit=24" in receiver.calls
    older = "/?status=dead&amp;person=A+%26+B&amp;cursor=older%26more"
    assert f'href="{older}"' in answer.text
    assert 'href="/?status=dead&amp;person=A+%26+B"' in answer.text
    assert '<option value="A &amp; B" selected>A &amp; B</option>' in answer.text


async def test_no_page_asks_for_more_names_than_it_offers(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.images = [image_json(1, faces=[face_json()])]
    receiver.people = [person_json("Ada", 1)]
    for path in ("/", "/images/1", "/fragments/pictures", "/fragments/images/1"):
        html = (await pages.get(path)).text
        assert "data-more" not in html
    assert "<select" in (await pages.get("/")).text
    receiver.next_person = "Ada"
    for path in ("/?person=Zo%C3%AB", "/fragments/pictures?person=Zo%C3%AB", "/fragments/images/1"):
        html = ""
        async with asyncio.timeout(20):
            while "data-more" not in html:  # the same names are given for a moment
                html = (await pages.get(path)).text
        assert '<option value="Ada">' in html
        if "person" in path:
            assert 'list="names"' in html
            assert 'value="Zoë"' in html
            assert "<select" not in html
    assert {call for call in receiver.calls if "/people" in call} == {"GET /people?limit=100"}


async def test_an_unknown_status_shows_everything(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    assert (await pages.get("/", params={"status": "nonsense"})).status_code == 200
    assert "GET /images?limit=24" in receiver.calls


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("pending", "Waiting for its turn."),
        ("processing", "Looking for faces."),
        ("processed", "No face in this picture."),
        ("failed", "Attempt 2 failed and will be repeated. Out of luck."),
        ("rejected", "This picture cannot be used. Out of luck."),
        ("dead", "Stopped after 2 attempts. Out of luck."),
    ],
)
async def test_status_in_words(
    pages: httpx.AsyncClient, receiver: FakeReceiver, status: str, words: str
) -> None:
    receiver.images = [image_json(1, status=status, error="out of luck", attempt=2)]
    assert words in (await pages.get("/images/1")).text
    # The card's badge says the rest.
    assert words.rpartition(". ")[2] in (await pages.get("/")).text


@pytest.mark.parametrize(
    ("state", "left", "note"),
    [
        ("running", 1234, "The faces of older pictures are being prepared: 1,234 pictures to go."),
        ("stopped", 1, "Preparing the faces of older pictures is stopped, with 1 picture to go."),
        ("running", None, None),
        ("finished", 0, None),
    ],
)
async def test_a_quiet_line_says_that_older_pictures_are_prepared(
    pages: httpx.AsyncClient,
    receiver: FakeReceiver,
    state: str,
    left: int | None,
    note: str | None,
) -> None:
    receiver.encoding = {"state": state, "images_left": left}
    for address in ("/", "/fragments/pictures"):
        text = (await pages.get(address)).text
        assert 'data-region="note"' in text
        assert (note in text) if note else ("of older pictures" not in text)


@pytest.mark.parametrize(
    ("seconds", "is_old", "error", "note"),
    [
        (200_000, True, None, "The last good backup is 2 days old."),
        (200_000, True, "no space", "backup is 2 days old. The last one failed; see /status."),
        (3_600, False, "no space", "The last backup failed; see /status."),
        (None, True, None, "There is no good backup."),
        (None, False, "no space", "There is no good backup. The last one failed; see /status."),
        (None, False, None, None),
        (3_600, False, None, None),
    ],
)
async def test_a_line_says_that_a_backup_failed_or_is_old(  # noqa: PLR0917, a table
    pages: httpx.AsyncClient,
    receiver: FakeReceiver,
    seconds: float | None,
    is_old: bool,
    error: str | None,
    note: str | None,
) -> None:
    receiver.backup = {"last_good_seconds": seconds, "is_old": is_old, "error": error}
    text = (await pages.get("/")).text
    assert (note in text) if note else ("backup" not in text)
    assert "no space" not in text


async def test_only_a_changed_card_has_a_new_version(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    def versions(html: str) -> dict[str, str]:
        return dict(re.findall(r'data-key="(image-\d)" data-version="(\w+)"', html))

    receiver.images = [image_json(2, status="processing"), image_json(1)]
    before = versions((await pages.get("/")).text)
    receiver.images = [image_json(2), image_json(1)]
    after = versions((await pages.get("/fragments/pictures")).text)
    assert before["image-1"] == after["image-1"]
    assert before["image-2"] != after["image-2"]


async def test_a_person_is_asked_for_as_names_are_kept(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    await pages.get("/", params={"person": "Zoe\u0308"})
    assert "GET /images?person=Zo%C3%AB&limit=24" in receiver.calls
    assert "GET /status?person=Zo%C3%AB" in receiver.calls


async def test_the_style_sheet_knows_every_position_of_a_picture_in_a_card(
    pages: httpx.AsyncClient,
) -> None:
    style = (await pages.get("/static/style.css")).text
    found = re.findall(r"\.at-(\d+) \{ object-position: (\d+)% (\d+)%; \}", style)
    assert found == [(str(n), str(n), str(n)) for n in range(0, 101, 5)]


async def test_an_upload_is_passed_on_as_it_is(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    answer = await pages.post("/upload", files={"files": (NASTY, b"content")})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    assert receiver.calls == ["POST /images"]
    assert b'name="files"' in receiver.bodies[0]
    assert b"content" in receiver.bodies[0]


async def test_a_type_that_is_not_ascii_is_passed_on(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    kind = "multipart/form-data; boundary=ä".encode("latin-1")
    answer = await pages.post("/upload", headers={b"Content-Type": kind}, content=b"x")
    assert answer.status_code == 303
    assert receiver.calls == ["POST /images"]


async def test_slow_uploads_take_nothing_from_others(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    begun, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        begun.release()
        await go_on.wait()
        yield b"content"

    waiting = [asyncio.create_task(pages.post("/upload", content=slow())) for _ in range(60)]
    for _ in waiting:
        await begun.acquire()
    assert (await pages.post("/upload", files={"files": ("a", b"b")})).status_code == 303
    assert (await pages.get("/")).status_code == 200
    assert receiver.calls.count("POST /images") == 1
    go_on.set()
    assert {(await task).status_code for task in waiting} <= {303, 429}


async def test_too_many_uploads_are_told_so(
    pages: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def upload() -> httpx.Response:
        return await pages.post("/upload", files={"files": ("a", b"b")})

    async def busy(*_: object, **__: object) -> httpx.Response:
        begun.release()
        await go_on.wait()
        return httpx.Response(202, json={"images": []})

    monkeypatch.setattr(ReceiverConnection, "call", busy)
    waiting = [asyncio.create_task(upload()) for _ in range(32)]
    for _ in waiting:
        await begun.acquire()
    refused = await pages.post(
        "/upload", files={"files": ("a", b"b")}, headers={"Accept": "application/json"}
    )
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    wanted = "Too many uploads at once, 32 are being served. Try again in 1 s."
    assert refused.json()["message"] == wanted
    go_on.set()
    assert {(await task).status_code for task in waiting} == {303}


async def test_an_upload_that_is_too_large_is_told_so(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    answer = await pages.post("/upload", headers={"Content-Length": "999999999"}, content=b"x")
    assert answer.status_code == 413
    assert "The body has 999999999 bytes, the limit is 104857600 bytes." in answer.text
    assert receiver.calls == []


async def test_an_upload_by_script_is_answered_with_json(pages: httpx.AsyncClient) -> None:
    answer = await pages.post(
        "/upload", files={"files": ("a", b"b")}, headers={"Accept": "application/json"}
    )
    assert answer.status_code == 202
    assert answer.json() == {"images": [{"id": 7, "status": "pending", "duplicate": False}]}


async def test_a_refused_upload_says_why(pages: httpx.AsyncClient, receiver: FakeReceiver) -> None:
    document = {
        "title": "Unprocessable",
        "status": 422,
        "detail": "1 file is wrong",
        "errors": [{"pointer": "/files/0", "detail": "the file is empty"}],
    }
    receiver.answers = {"POST /images": httpx.Response(422, json=document)}
    answer = await pages.post(
        "/upload", files={"files": ("a", b"b")}, headers={"Accept": "application/json"}
    )
    assert answer.status_code == 422
    assert answer.json()["message"] == "1 file is wrong. The file is empty."
