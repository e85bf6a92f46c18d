import asyncio
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from services.common.errors import ClaimLostError, ObjectNotFoundError
from services.common.picture_formats import MAX_PICTURE_BYTES
from services.receiver.adapters.rows.images import DatabaseImages
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import Configure, Launch, Start

JSON = {"Content-Type": "application/json"}


async def assert_problem(
    client: httpx.AsyncClient, answer: httpx.Response, status: int, reason: str = ""
) -> None:
    """The answer is a problem document, and nothing was stored."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["title"]
    assert reason in problem["detail"] + str(problem.get("errors", "")), problem
    assert (await client.get("/images")).json()["images"] == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "empty"),
        ("/", "empty"),
        ("//etc/passwd", "relative"),
        ("/../etc/passwd", "parts"),
        ("日" * 60 + ("/" + "日" * 60) * 6, "1266 bytes"),
        ("../../etc/passwd", "parts"),
        ("a/../../b", "parts"),
        ("https://example.com/a.jpg", "URL"),
        ("a\nb", "control"),
        ("a\0b", "control"),
        ("a\x85b", "control"),
        ("a/" * 256 + "b", "513 characters"),
        ("x" * 201, "200 bytes"),
        ("日" * 67, "200 bytes"),
        (None, "string"),
        (1, "string"),
        (["a"], "string"),
        ({"path": "a"}, "string"),
        (True, "string"),
    ],
)
async def test_a_wrong_path(plain: httpx.AsyncClient, path: object, reason: str) -> None:
    one = await plain.post("/image/post", json={"path": path})
    await assert_problem(plain, one, 422, reason)
    assert one.json()["errors"][0]["pointer"] == "/path"
    many = await plain.post("/images/post", json={"paths": [{"path": "good"}, {"path": path}]})
    await assert_problem(plain, many, 422, reason)
    assert many.json()["errors"][0]["pointer"] == "/paths/1/path"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"{",
        b'{"path": "a"',
        b"\xff\xfe",
        b'{"path": "a\xff"}',
        b'{"path": "\\ud800"}',
        b'{"path": "a\\udfffb"}',
        b"[]",
        b"null",
        b'"a"',
        b"{}",
        b'{"Path": "a"}',
        b"[" * 100_000,
        b'{"path": NaN}',
    ],
)
async def test_a_wrong_document(plain: httpx.AsyncClient, body: bytes) -> None:
    for address in ("/image/post", "/images/post"):
        answer = await plain.post(address, content=body, headers=JSON)
        await assert_problem(plain, answer, 422)


@pytest.mark.parametrize(
    "paths",
    [
        [],
        [{"path": "a"}] * 1001,
        "a",
        {"path": "a"},
        [[]],
        ["a"],
        [{}],
        [{"path": "a"}, None],
        None,
    ],
)
async def test_a_wrong_list(plain: httpx.AsyncClient, paths: object) -> None:
    answer = await plain.post("/images/post", json={"paths": paths})
    await assert_problem(plain, answer, 422)
    assert answer.json()["errors"]


async def test_a_body_over_the_limit(plain: httpx.AsyncClient) -> None:
    for address in ("/image/post", "/images/post"):
        content = b'{"path": "' + b"a" * (8 * 1024 * 1024) + b'"}'
        answer = await plain.post(address, content=content, headers=JSON)
        await assert_problem(plain, answer, 413, str(8 * 1024 * 1024))


async def test_a_body_over_the_limit_that_does_not_say_so(plain: httpx.AsyncClient) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        if headers is multipart:
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(200):
            sent += 1024 * 1024
            yield b" " * 1024 * 1024

    multipart = {"Content-Type": "multipart/form-data; boundary=b"}
    for address, headers, limit in (
        ("/image/post", JSON, 8),
        ("/images/post", JSON, 8),
        ("/images", multipart, 100),
        ("/people/Ada/pictures", multipart, 20),
        ("/people/Ada/pictures", JSON, 0),
    ):
        sent = 0
        answer = await plain.post(address, content=chunks(), headers=headers)
        await assert_problem(plain, answer, 413)
        # It was cut off as soon as the limit was passed.
        assert sent <= (limit + 2) * 1024 * 1024


async def test_a_file_over_the_limit(plain: httpx.AsyncClient) -> None:
    content = b"x" * (MAX_PICTURE_BYTES + 1)
    files = [("files", ("good.jpg", b"good")), ("files", ("huge.jpg", content))]
    await assert_problem(plain, await plain.post("/images", files=files), 413, "huge.jpg")
    answer = await plain.post("/people/Ada/pictures", files={"file": ("huge.jpg", content)})
    await assert_problem(plain, answer, 413, "huge.jpg")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"files": [("other", ("a", b"x"))]}, "no field files"),
        ({"files": [("files", ("a", b""))]}, "is empty"),
        ({"files": [("files", ("a", b"x"))] * 21}, "20"),
        ({"files": [("other", ("a", b"x"))], "data": {"files": "text"}}, "must be a file"),
        ({"content": b"", "headers": {"Content-Type": "multipart/form-data"}}, "boundary"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, ""),
        (
            {
                "content": b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"',
                "headers": {"Content-Type": "multipart/form-data; boundary=b"},
            },
            "",
        ),
    ],
)
async def test_a_wrong_form(
    plain: httpx.AsyncClient, arguments: dict[str, Any], reason: str
) -> None:
    await assert_problem(plain, await plain.post("/images", **arguments), 422, reason)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("/image/post", "text/plain"),
        ("/image/post", "multipart/form-data; boundary=b"),
        ("/images/post", "text/plain"),
        ("/images", "application/json"),
        ("/people/Ada/pictures", "text/plain"),
    ],
)
async def test_a_wrong_media_type(plain: httpx.AsyncClient, address: str, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = await plain.post(address, content=b'{"path": "a"}', headers=headers)
    await assert_problem(plain, answer, 415)


@pytest.mark.parametrize("number", ["0", str(2**63), "9" * 50])
async def test_a_wrong_id(plain: httpx.AsyncClient, number: str) -> None:
    for method, rest in (("GET", ""), ("GET", "/picture"), ("POST", "/retry"), ("DELETE", "")):
        answer = await plain.request(method, f"/images/{number}{rest}")
        await assert_problem(plain, answer, 422)


@pytest.mark.parametrize("number", ["-1", "x", "1.5", "1%00", "..%2f1", "9" * 5000])
async def test_what_is_no_number_is_no_address(plain: httpx.AsyncClient, number: str) -> None:
    for method, rest in (("GET", ""), ("GET", "/picture"), ("POST", "/retry"), ("DELETE", "")):
        answer = await plain.request(method, f"/images/{number}{rest}")
        await assert_problem(plain, answer, 404)


async def test_an_id_that_nobody_has(plain: httpx.AsyncClient) -> None:
    for method, rest in (("GET", ""), ("GET", "/picture"), ("POST", "/retry"), ("DELETE", "")):
        answer = await plain.request(method, f"/images/42{rest}")
        await assert_problem(plain, answer, 404, "42")


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=201", "limit=x", "status=lost", "status=", "person=", "person=%0A"),
        *("cursor=", "cursor=x", "cursor=00000000000000001"),
    ],
)
async def test_a_wrong_query(plain: httpx.AsyncClient, query: str) -> None:
    answer = await plain.get(f"/images?{query}")
    await assert_problem(plain, answer, 422)
    [fault] = answer.json()["errors"]
    assert fault["pointer"] == "/query/" + query.partition("=")[0]
    assert not set("^$\\[]") & set(fault["detail"]), "no regular expression, but words"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"image_id": 1},
        {"image_id": "1", "face_index": 0},
        {"image_id": 1.5, "face_index": 0},
        {"image_id": True, "face_index": 0},
        {"image_id": 0, "face_index": 0},
        {"image_id": 2**63, "face_index": 0},
        {"image_id": 1, "face_index": -1},
        {"image_id": 1, "face_index": 2**70},
    ],
)
async def test_a_wrong_face(plain: httpx.AsyncClient, body: dict[str, Any]) -> None:
    await assert_problem(plain, await plain.post("/people/Ada/pictures", json=body), 422)


async def test_an_address_or_method_that_does_not_exist(plain: httpx.AsyncClient) -> None:
    await assert_problem(plain, await plain.get("/nothing/here"), 404, "nothing at /nothing/here")
    for address, allowed in (
        ("/images", "GET, POST"),
        ("/images/1", "DELETE, GET"),
        ("/images/post", "POST"),
        ("/people/Ada/pictures/1", "DELETE, GET"),
    ):
        answer = await plain.put(address)
        await assert_problem(plain, answer, 405)
        assert answer.headers["allow"] == allowed


async def test_another_host_is_told_that_it_is_not_this_one(plain: httpx.AsyncClient) -> None:
    for method, address in (("GET", "/images"), ("POST", "/image/post"), ("DELETE", "/people/Ada")):
        answer = await plain.request(method, address, headers={"Host": "rebound.example:8000"})
        await assert_problem(plain, answer, 421, "does not answer to the name 'rebound.example'")


async def test_what_is_not_for_clients_is_not_at_their_port(
    launch: Launch, plain_settings: ReceiverSettings
) -> None:
    process = launch(plain_settings.model_copy(update={"access": "keys"}))
    async with httpx.AsyncClient(base_url=process.url, trust_env=False) as client:
        for path in ("/metrics", "/docs", "/openapi.json"):
            assert (await process.get(path)).status_code == 200
            assert (await client.get(path)).status_code == 404
        for path in ("/livez", "/readyz"):
            assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize("kind", [RuntimeError, ObjectNotFoundError, ClaimLostError])
async def test_an_unexpected_error_says_nothing_internal(
    start: Start,
    plain_settings: ReceiverSettings,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Exception],
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise kind("secret inside")

    running = start(plain_settings)
    with monkeypatch.context() as patch:
        patch.setattr("services.receiver.adapters.http.images.page_view", broken)
        answer = await running.client.get("/images")
    await assert_problem(running.client, answer, 500)
    assert "secret" not in answer.text


async def test_too_many_requests_at_once_are_told_to_come_back(
    start: Start, plain_settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start(plain_settings.model_copy(update={"max_in_flight": 2})).client
    arrived, go_on = asyncio.Semaphore(0), asyncio.Event()
    page = DatabaseImages.page

    async def slow(*arguments: Any, **named: Any) -> Any:
        arrived.release()
        await go_on.wait()
        return await page(*arguments, **named)

    monkeypatch.setattr(DatabaseImages, "page", slow)
    waiting = [asyncio.create_task(client.get("/images")) for _ in range(2)]
    for _ in waiting:
        await arrived.acquire()
    refused = await client.get("/images/1")
    assert refused.status_code == 429
    assert refused.headers["retry-after"]
    assert refused.headers["content-type"] == "application/problem+json"
    assert "too many requests at once, 2 are being served" in refused.json()["detail"]
    # Neither probes nor requests of other kinds wait for these.
    for probe in ("/livez", "/readyz"):
        assert (await client.get(probe)).status_code == 200
    assert (await client.post("/image/post", json={"path": "a"})).status_code == 202
    assert (await client.post("/images", files={"files": ("a", b"b")})).status_code == 202
    assert (await client.get("/images/1/picture")).status_code == 404
    go_on.set()
    assert [(await task).status_code for task in waiting] == [200, 200]
    assert (await client.get("/images")).status_code == 200


async def test_a_body_that_is_not_there_yet_takes_no_place(
    start: Start, plain_settings: ReceiverSettings
) -> None:
    client = start(plain_settings.model_copy(update={"max_in_flight": 2})).client
    arrived, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        arrived.release()
        await go_on.wait()
        yield b'{"path": "a"}'

    waiting = [asyncio.create_task(client.post("/image/post", content=slow())) for _ in range(8)]
    for _ in waiting:
        await arrived.acquire()
    assert (await client.post("/image/post", json={"path": "b"})).status_code == 202
    go_on.set()
    assert {(await task).status_code for task in waiting} <= {202, 429}


WRITES = [
    ("POST", "/image/post"),
    ("POST", "/images/post"),
    ("POST", "/images"),
    ("POST", "/images/1/retry"),
    ("POST", "/images/1/recognise"),
    ("POST", "/images/1/regions"),
    ("DELETE", "/images/1"),
    ("POST", "/images/1/faces"),
    ("DELETE", "/images/1/faces/0"),
    ("POST", "/images/1/faces/0/restore"),
    ("PUT", "/images/1/faces/0/person"),
    ("DELETE", "/images/1/faces/0/person"),
    ("PUT", "/images/1/faces/0/denials/Ada"),
    ("DELETE", "/images/1/faces/0/denials/Ada"),
    ("POST", "/search"),
    ("PUT", "/groups/1/person"),
    ("DELETE", "/groups/1/faces/1/0"),
    ("PUT", "/questions/1"),
    ("POST", "/webhooks/deliveries/1/retry"),
    ("PATCH", "/people/Ada"),
    ("PUT", "/people/Ada/face"),
    ("DELETE", "/people/Ada/face"),
    ("POST", "/people/Ada/merge"),
    ("DELETE", "/people/Ada/merges/1"),
    ("POST", "/people/Ada/pictures"),
    ("DELETE", "/people/Ada"),
    ("POST", "/people/Ada/erase"),
    ("DELETE", "/people/Ada/pictures/1"),
    ("POST", "/encoding/stop"),
    ("POST", "/encoding/start"),
    ("POST", "/users"),
    ("PATCH", "/users/1"),
    ("DELETE", "/users/1"),
    ("POST", "/sessions"),
    ("DELETE", "/session"),
    ("POST", "/keys"),
    ("POST", "/keys/1/rotate"),
    ("DELETE", "/keys/1"),
]


@pytest.mark.parametrize(("method", "address"), WRITES)
async def test_nothing_is_done_for_another_sites_page(
    plain: httpx.AsyncClient, method: str, address: str
) -> None:
    for headers, refused in (
        ({"Sec-Fetch-Site": "cross-site"}, True),
        ({"Sec-Fetch-Site": "same-site"}, True),
        ({"Origin": "http://evil.example"}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://receiver"}, False),
        ({"Origin": "http://receiver"}, False),
        ({}, False),
    ):
        # What curl sends with -d, and any page's form may send.
        headers |= {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await plain.request(
            method, address, content=b'{"path": "../wrong"}', headers=headers
        )
        if refused:
            await assert_problem(plain, answer, 403, "another site")
        else:
            # Nobody is logged in here, and nobody is the frontend.
            assert answer.status_code in {200, 404, 415, 422} | (
                {403, 409} if "/session" in address else set()
            )
            assert "another site" not in answer.text


async def test_refusing_another_sites_page_is_documented(plain: httpx.AsyncClient) -> None:
    paths = (await plain.get("/openapi.json")).json()["paths"]
    documented = {
        (
            method.upper(),
            re.sub(
                r"{(?:image|picture|merge|group|question|delivery|key|user)_id}", "1", path
            ).replace("{face_index}", "0"),
        )
        for path, methods in paths.items()
        for method, operation in methods.items()
        if method != "get" and "403" in operation["responses"]
    }
    assert documented == {(method, path.replace("Ada", "{name}")) for method, path in WRITES}


def test_a_real_server_survives_hostile_bytes(
    launch: Launch, plain_settings: ReceiverSettings
) -> None:
    process = launch(plain_settings)
    for request in (
        b"GARBAGE\r\n\r\n",
        b"GET /images\0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /image/post HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /image/post HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999\r\n\r\nx",
        b"POST /image/post HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /images/%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /people/%00/pictures/1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", process.port), timeout=10) as connection:
            connection.sendall(request)
            assert connection.recv(4096)[:12] in (
                b"HTTP/1.1 400",
                b"HTTP/1.1 413",
                b"HTTP/1.1 404",
                b"HTTP/1.1 422",
            ), request

    def chunks() -> Any:
        yield from (b" " * 65536 for _ in range(2000))

    answer = httpx.post(f"{process.url}/image/post", content=chunks(), timeout=30)
    assert answer.status_code == 413
    assert httpx.get(f"{process.url}/images").json()["images"] == []


async def test_settings_are_named_when_wrong(
    configure: Configure, plain_settings: ReceiverSettings
) -> None:
    with pytest.raises(ValueError, match="nsqd_url"):
        ReceiverSettings(**{**plain_settings.model_dump(), "nsqd_url": "nsqd:4150"})
