"""What all pages have: headers, what is away, fragments, actions that are passed on."""

import re

import httpx
import pytest
from prometheus_client import generate_latest

from services.frontend.tests.fake_receiver import (
    FakeReceiver,
    face_json,
    image_json,
    person_json,
    problem,
)

NASTY = "<img src=x onerror=1>.jpg"


@pytest.mark.parametrize("path", ["/", "/images/1", "/fragments/pictures", "/fragments/images/1"])
async def test_names_from_outside_are_text(
    pages: httpx.AsyncClient, receiver: FakeReceiver, path: str
) -> None:
    receiver.images = [
        image_json(
            1,
            name=NASTY,
            status="processed",
            faces=[face_json(person=NASTY, distance=0.55, ambiguous=True)],
            error=NASTY,
        )
    ]
    receiver.people = [person_json(NASTY, 1)]
    receiver.problems = {NASTY: NASTY}
    html = (await pages.get(path)).text
    assert "&lt;img src=x onerror=1&gt;.jpg" in html
    assert "<img src=x" not in html


async def test_no_page_needs_inline_script_or_style(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.images = [image_json(1, faces=[face_json(person="Ada", distance=0.3)])]
    receiver.people = [person_json("Ada", 1)]
    for path in ("/", "/images/1", "/people", "/nowhere"):
        html = (await pages.get(path)).text
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)
        assert set(re.findall(r"<script[^>]*>(.*?)</script>", html)) == {""}
        assert not re.search(r"""(src|href|action)=["']?(https?:)?//""", html)


@pytest.mark.parametrize(
    "path", ["/", "/images/1", "/people", "/nowhere", "/static/app.js", "/livez"]
)
async def test_every_answer_has_the_security_headers(pages: httpx.AsyncClient, path: str) -> None:
    headers = (await pages.get(path)).headers
    policy = dict(
        part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";")
    )
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
    }
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://page"}, False),
        ({"Origin": "http://page"}, True),
        ({"Origin": "https://page"}, True),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "http://page.evil.example"}, False),
        ({"Origin": "null"}, False),
        ({}, True),
    ],
)
@pytest.mark.parametrize(
    "path", ["/images/1/delete", "/images/1/retry", "/people/Ada/delete", "/upload", "/people"]
)
async def test_actions_for_other_sites_are_refused(
    pages: httpx.AsyncClient,
    receiver: FakeReceiver,
    path: str,
    headers: dict[str, str],
    allowed: bool,
) -> None:
    files = {"files": ("a.jpg", b"x"), "file": ("a.jpg", b"x")}
    answer = await pages.post(path, headers=headers, files=files)
    if allowed:
        assert answer.status_code != 403
    else:
        assert answer.status_code == 403
        assert receiver.calls == []


async def test_what_is_away_is_said(pages: httpx.AsyncClient, receiver: FakeReceiver) -> None:
    receiver.problems = {"face_recog": "connection refused"}
    receiver.images = [image_json(1)]
    answer = await pages.get("/")
    assert answer.status_code == 200
    assert "The face recogniser is away" in answer.text
    assert 'data-key="image-1"' in answer.text


@pytest.mark.parametrize("path", ["/", "/people", "/images/1"])
async def test_without_the_receiver_the_page_says_so_and_keeps_trying(
    pages: httpx.AsyncClient, receiver: FakeReceiver, path: str
) -> None:
    receiver.away = True
    answer = await pages.get(path)
    assert answer.status_code == 503
    assert "The receiver does not answer" in answer.text
    assert 'data-busy="yes"' in answer.text


async def test_without_the_database_the_page_names_the_database(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.problems = {"database": "connection refused"}
    receiver.answers = {"GET /images": problem(503, "database is away")}
    answer = await pages.get("/")
    assert answer.status_code == 503
    assert "The database is away" in answer.text


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(200, text="<html>"), httpx.Response(200, json=[]), httpx.Response(502)],
)
async def test_an_answer_that_makes_no_sense_counts_as_away(
    pages: httpx.AsyncClient, receiver: FakeReceiver, answer: httpx.Response
) -> None:
    receiver.answers = {"GET /images": answer, "GET /status": answer, "GET /people": answer}
    assert (await pages.get("/")).status_code == 503
    assert (await pages.get("/people")).status_code == 503


async def test_a_fragment_without_the_receiver_leaves_the_list_alone(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.away = True
    answer = await pages.get("/fragments/pictures")
    assert answer.status_code == 200
    assert 'data-region="problems"' in answer.text
    assert 'data-region="list"' not in answer.text


async def test_a_fragment_is_sent_once_and_again_when_it_changed(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.images = [image_json(1, status="processing")]
    first = await pages.get("/fragments/pictures")
    headers = {"If-None-Match": first.headers["ETag"]}
    assert 'data-busy="yes"' in first.text
    assert (await pages.get("/fragments/pictures", headers=headers)).status_code == 304
    receiver.images = [image_json(1)]
    second = await pages.get("/fragments/pictures", headers=headers)
    assert second.status_code == 200
    assert 'data-busy="no"' in second.text


@pytest.mark.parametrize("path", ["/nowhere", "/images/abc", "/images/1/preview/x", "/static/no"])
async def test_an_unknown_address_is_not_found(pages: httpx.AsyncClient, path: str) -> None:
    answer = await pages.get(path)
    assert answer.status_code == 404
    assert "<h1>Not found</h1>" in answer.text


async def test_a_wrong_method_is_refused(pages: httpx.AsyncClient) -> None:
    assert (await pages.put("/people")).status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/images/1",
        "/people",
        "/fragments/pictures",
        "/images/1/thumbnail",
        "/images/1/preview",
        "/static/app.js",
        "/livez",
        "/nowhere",
        "/upload",
    ],
)
async def test_head_has_the_headers_of_get_and_no_body(
    pages: httpx.AsyncClient, receiver: FakeReceiver, path: str
) -> None:
    receiver.images = [image_json(1)]
    small = httpx.Response(200, content=b"small", headers={"ETag": '"1"'})
    receiver.answers["GET /images/1/thumbnail"] = small
    get, head = await pages.get(path), await pages.head(path)
    assert get.content
    assert head.content == b""
    assert (head.status_code, head.headers) == (get.status_code, get.headers)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/", "GET /status"),
        ("/fragments/pictures", "GET /status"),
        ("/images/1", "GET /status?counts=false"),
        ("/fragments/images/1", "GET /status?counts=false"),
        ("/people", "GET /status?counts=false"),
        ("/fragments/people", "GET /status?counts=false"),
    ],
)
async def test_only_a_page_with_counters_has_pictures_counted(
    pages: httpx.AsyncClient, receiver: FakeReceiver, path: str, asked: str
) -> None:
    receiver.images = [image_json(1)]
    assert (await pages.get(path)).status_code == 200
    assert [call for call in receiver.calls if "/status" in call] == [asked]


async def test_static_files_are_cached_for_ever_by_version(pages: httpx.AsyncClient) -> None:
    html = (await pages.get("/")).text
    for address in re.findall(r'"(/static/[^"]+)"', html):
        assert "immutable" in (await pages.get(address)).headers["Cache-Control"]
    assert (await pages.get("/static/app.js?v=old")).headers["Cache-Control"] == "no-cache"


# Actions


@pytest.mark.parametrize(
    ("path", "call", "then"),
    [
        ("/images/5/retry", "POST /images/5/retry", "/images/5"),
        ("/images/5/recognise", "POST /images/5/recognise", "/images/5"),
        ("/images/5/delete", "DELETE /images/5", "/"),
        ("/people/A%3FB%20%C3%A4/delete", "DELETE /people/A%3FB%20%C3%A4", "/people"),
        ("/people/Zoe%CC%88/delete", "DELETE /people/Zo%C3%AB", "/people"),
        ("/people/J./delete", "DELETE /people/J.", "/people"),
        ("/people/~7/delete", "DELETE /people/~7", "/people"),
        ("/people/~7/pictures/3/delete", "DELETE /people/~7/pictures/3", "/people/~7"),
        ("/people/~7/hide", "PATCH /people/~7", "/people/~7"),
        ("/people/~7/show", "PATCH /people/~7", "/people/~7"),
        ("/people/~7/faces/5/2/stand", "PUT /people/~7/face", "/people/~7"),
        (
            "/people/~7/faces/5/2/deny",
            "PUT /images/5/faces/2/denials/~7?insist=true",
            "/people/~7",
        ),
        ("/people/~7/merges/3/undo", "DELETE /people/~7/merges/3", "/people/~7"),
    ],
)
async def test_an_action_is_passed_on(
    pages: httpx.AsyncClient, receiver: FakeReceiver, path: str, call: str, then: str
) -> None:
    receiver.answers = {call: httpx.Response(204)}
    answer = await pages.post(path)
    assert (answer.status_code, answer.headers["Location"]) == (303, then)
    assert receiver.calls == [call]
    scripted = await pages.post(path, headers={"Accept": "application/json"})
    assert (scripted.status_code, scripted.json()) == (200, {"then": then})


async def test_a_refused_action_says_why(pages: httpx.AsyncClient, receiver: FakeReceiver) -> None:
    receiver.answers = {"POST /images/5/retry": problem(409, "image 5 is processed")}
    answer = await pages.post("/images/5/retry")
    assert answer.status_code == 409
    assert "Image 5 is processed." in answer.text
    scripted = await pages.post("/images/5/retry", headers={"Accept": "application/json"})
    assert (scripted.status_code, scripted.json()) == (409, {"message": "Image 5 is processed."})


async def test_an_action_without_the_receiver_says_so(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.away = True
    answer = await pages.post("/images/5/delete")
    assert answer.status_code == 503
    assert "The receiver does not answer" in answer.text


async def test_an_action_without_a_store_says_what_the_receiver_said(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    away = problem(503, "object store is not available, try again")
    receiver.answers = {"POST /images": away}
    answer = await pages.post("/upload", files={"files": ("a", b"b")})
    assert answer.status_code == 503
    assert "Object store is not available, try again." in answer.text


async def test_retry_after_is_said(pages: httpx.AsyncClient, receiver: FakeReceiver) -> None:
    busy = problem(429, "too many requests at once", **{"Retry-After": "3"})
    receiver.answers = {"DELETE /images/5": busy}
    answer = await pages.post("/images/5/delete", headers={"Accept": "application/json"})
    assert answer.json()["message"] == "Too many requests at once. Try again in 3 s."


async def test_a_request_for_another_host_gets_a_page_that_says_so(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    for method, path in (("GET", "/"), ("POST", "/images/1/delete"), ("GET", "/nowhere")):
        answer = await pages.request(method, path, headers={"Host": "<b>rebound.example"})
        assert answer.status_code == 421
        assert "&lt;b&gt;rebound.example" in answer.text
        assert "default-src" in answer.headers["Content-Security-Policy"]
        accept = {"Accept": "application/json", "Host": "rebound.example"}
        answer = await pages.request(method, path, headers=accept)
        assert answer.json()["message"].startswith(
            "This service does not answer to the name 'rebound.example': use its IP address"
        )
    assert receiver.calls == []


async def test_requests_are_counted_by_route(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    await pages.get("/")
    receiver.away = True
    await pages.get("/")
    assert (await pages.get("/metrics")).status_code == 404
    text = generate_latest().decode()
    for operation in ("receiver GET /images", "receiver GET /status"):
        assert f'facestack_requests_total{{operation="{operation}"}}' in text
        errors = re.search(
            rf'facestack_request_errors_total{{operation="{operation}"}} (\S+)', text
        )
        assert errors is not None
        assert float(errors[1]) >= 1


async def test_it_is_ready_without_the_receiver(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.away = True
    assert (await pages.get("/readyz")).status_code == 200
