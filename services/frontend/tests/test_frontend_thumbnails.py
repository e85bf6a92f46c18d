"""Small pictures, which the receiver makes and keeps, on their way to a browser."""

import asyncio
import re

import httpx
import pytest

from services.frontend.adapters.receiver.api import PicturesApi
from services.frontend.adapters.receiver.connection import ReceiverConnection
from services.frontend.tests.fake_receiver import FakeReceiver, image_json, person_json, problem

JPEG = httpx.Response(200, content=b"\xff\xd8 small", headers={"ETag": '"1"'})
SMALL = ("/images/5/thumbnail", "/images/5/preview", "/people/~6/pictures/6/thumbnail")
FACE = "/images/5/faces/0/thumbnail"


@pytest.fixture
def receiver(receiver: FakeReceiver) -> FakeReceiver:
    """A receiver with a picture and a known one."""
    receiver.images = [image_json(5)]
    receiver.people = [person_json("A?B", 6)]
    receiver.answers = {f"GET {path}": JPEG for path in (*SMALL, FACE)}
    return receiver


@pytest.mark.parametrize(
    ("shown_on", "path"), list(zip(("/", "/images/5", "/people"), SMALL, strict=True))
)
async def test_a_browser_keeps_what_a_page_shows(
    pages: httpx.AsyncClient, receiver: FakeReceiver, shown_on: str, path: str
) -> None:
    html = (await pages.get(shown_on)).text
    [address, *_] = re.findall(rf'="({re.escape(path)}\?v=[^"]+)"', html)
    answer = await pages.get(address)
    assert (answer.status_code, answer.content) == (200, b"\xff\xd8 small")
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["ETag"] == '"1"'
    assert "immutable" in answer.headers["Cache-Control"]
    # Without a version it may be another picture the next time.
    assert (await pages.get(path)).headers["Cache-Control"] == "no-cache"
    assert f"GET {path}" in receiver.calls


async def test_a_face_may_be_another_one_the_next_time(pages: httpx.AsyncClient) -> None:
    answer = await pages.get(FACE)
    assert (answer.status_code, answer.content) == (200, b"\xff\xd8 small")
    assert answer.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("path", [*SMALL, FACE])
async def test_what_a_browser_has_is_not_sent_again(
    pages: httpx.AsyncClient, receiver: FakeReceiver, path: str
) -> None:
    receiver.answers[f"GET {path}"] = httpx.Response(304, headers={"ETag": '"1"'})
    again = await pages.get(path, headers={"If-None-Match": '"1"'})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", '"1"')
    assert receiver.tags == ['"1"']


@pytest.mark.parametrize(
    "answer",
    [
        problem(404, "the picture cannot be read"),
        httpx.Response(404, json={"detail": "Not Found"}),  # of a receiver that makes none
    ],
)
@pytest.mark.parametrize("path", [*SMALL, FACE, "/people/%2e/pictures/1/thumbnail"])
async def test_what_cannot_be_shown_has_a_placeholder_for_a_minute(
    pages: httpx.AsyncClient, receiver: FakeReceiver, path: str, answer: httpx.Response
) -> None:
    receiver.answers[f"GET {path}"] = answer
    shown = await pages.get(f"{path}?v=1")
    assert shown.status_code == 200
    assert shown.headers["Content-Type"] == "image/svg+xml"
    assert shown.headers["Cache-Control"] == "private, max-age=60"


async def test_a_receiver_that_is_busy_or_away_is_asked_again(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.answers[f"GET {SMALL[0]}"] = problem(429, "too many requests")
    assert (await pages.get(f"{SMALL[0]}?v=1")).status_code == 503
    receiver.away = True
    assert (await pages.get(f"{SMALL[0]}?v=1")).status_code == 503
    receiver.away = False
    receiver.answers[f"GET {SMALL[0]}"] = JPEG
    assert (await pages.get(f"{SMALL[0]}?v=1")).status_code == 200


async def test_small_pictures_leave_connections_to_the_pages() -> None:
    waiting, go = 0, asyncio.Event()

    async def answer(_: httpx.Request) -> httpx.Response:
        nonlocal waiting
        waiting += 1
        await go.wait()
        return JPEG

    transport = httpx.MockTransport(answer)
    async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
        pictures = PicturesApi(ReceiverConnection(client))
        asked = [
            asyncio.create_task(pictures.small("GET /a", if_none_match=None)) for _ in range(100)
        ]
        for _ in range(50):
            await asyncio.sleep(0)
        assert waiting == 32
        go.set()
        assert {content for content, _ in await asyncio.gather(*asked)} == {b"\xff\xd8 small"}
