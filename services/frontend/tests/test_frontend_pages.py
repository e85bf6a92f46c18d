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
    problem,
)

NASTY = "<img src=x onerror=1>.jpg"


def cards(html: str) -> list[str]:
    return re.findall(r'data-key="(image-\d+)"', html)


async def test_pictures_are_listed_in_the_order_of_the_receiver(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.images = [image_json(3), image_json(2), image_json(1)]
    answer = await page.get("/")
    assert answer.status_code == 200
    assert cards(answer.text) == ["image-3", "image-2", "image-1"]


async def test_an_empty_page_says_what_to_do(page: httpx.AsyncClient) -> None:
    assert "No pictures yet" in (await page.get("/")).text


async def test_filters_and_cursor_reach_the_receiver_and_stay_in_the_links(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.images = [image_json(1)]
    receiver.next_cursor = "older&more"
    answer = await page.get("/", params={"status": "dead", "person": "A & B", "cursor": "c=1"})
    assert "GET /images?status=dead&person=A+%26+B&cursor=c%3D1&limit=24" in receiver.calls
    older = "/?status=dead&amp;person=A+%26+B&amp;cursor=older%26more"
    assert f'href="{older}"' in answer.text
    assert 'href="/?status=dead&amp;person=A+%26+B"' in answer.text
    assert '<option value="A &amp; B" selected>A &amp; B</option>' in answer.text


def people_in(html: str) -> list[str]:
    return re.findall(r'id="open-\w+"><bdi>([^<]*)</bdi></a>', html)


async def test_people_are_shown_a_page_at_a_time(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.people = [person_json("Ada", 1), person_json("Bea & Co", 2)]
    answer = await page.get("/people")
    assert receiver.calls.count("GET /people?limit=24") == 1
    assert people_in(answer.text) == ["Ada", "Bea &amp; Co"]
    # With everybody on one page there is nothing to look for and nowhere to go.
    assert 'type="search"' not in answer.text
    assert 'name="find"' not in answer.text
    assert 'id="next"' not in answer.text

    receiver.next_person = "Bea & Co"
    answer = await page.get("/people", params={"name": "a", "cursor": "A?"})
    assert "GET /people?name=a&cursor=A%3F&limit=24" in receiver.calls
    assert 'type="search" id="find" name="name"' in answer.text
    assert 'href="/people?name=a&amp;cursor=Bea+%26+Co"' in answer.text
    assert 'href="/people?name=a"' in answer.text
    assert 'data-live="/fragments/people?name=a&amp;cursor=A%3F"' in answer.text
    fragment = await page.get("/fragments/people", params={"name": "a", "cursor": "A?"})
    assert receiver.calls.count("GET /people?name=a&cursor=A%3F&limit=24") == 2
    assert people_in(fragment.text) == ["Ada", "Bea &amp; Co"]


async def test_a_page_of_nobody_leads_to_everybody(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    for params, words in (
        ({"name": "<x>"}, "Nobody has “<bdi>&lt;x&gt;</bdi>” in the name"),
        ({"cursor": "Zoë"}, "Nobody else is known"),
    ):
        html = (await page.get("/people", params=params)).text
        assert words in html
        assert 'href="/people">Show everybody' in html


async def test_no_page_asks_for_more_names_than_it_offers(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.images = [image_json(1, faces=[face_json()])]
    receiver.people = [person_json("Ada", 1)]
    for path in ("/", "/images/1", "/fragments/pictures", "/fragments/images/1"):
        html = (await page.get(path)).text
        assert "data-more" not in html
    assert "<select" in (await page.get("/")).text
    receiver.next_person = "Ada"
    for path in ("/?person=Zo%C3%AB", "/fragments/pictures?person=Zo%C3%AB", "/fragments/images/1"):
        html = ""
        async with asyncio.timeout(20):
            while "data-more" not in html:  # the same names are given for a moment
                html = (await page.get(path)).text
        assert '<option value="Ada">' in html
        if "person" in path:
            assert 'list="names"' in html
            assert 'value="Zoë"' in html
            assert "<select" not in html
    assert {call for call in receiver.calls if "/people" in call} == {"GET /people?limit=100"}


async def test_names_follow_what_is_typed(page: httpx.AsyncClient, receiver: FakeReceiver) -> None:
    receiver.people = [person_json("Ada", 1), person_json('"<Ada>"', 2)]
    answer = await page.get("/fragments/names", params={"name": "ad&"})
    assert answer.json() == ["Ada", '"<Ada>"']
    assert receiver.calls == ["GET /people?name=ad%26&limit=100"]
    receiver.away = True
    answer = await page.get("/fragments/names", params={"name": "ad&"})
    assert (answer.status_code, answer.json()) == (200, [])


async def test_who_is_added_among_many_is_shown(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.next_person = "Ada"
    receiver.answers = {"POST /people/Z%20%26/pictures": httpx.Response(201)}
    assert 'name="find" value="yes"' in (await page.get("/people")).text
    data, files = {"person": "Z &", "find": "yes"}, {"file": ("z.jpg", b"content")}
    answer = await page.post("/people", data=data, files=files)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/people?name=Z+%26")
    asked = {"Accept": "application/json"}
    answer = await page.post("/people", data=data, files=files, headers=asked)
    assert answer.json() == {"then": "/people?name=Z+%26"}


async def test_a_receiver_without_pages_shows_everybody(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.people = [person_json(f"Person {number}", number) for number in range(1, 201)]
    everybody = {"people": receiver.people}  # whatever it is asked for
    receiver.answers = {"GET /people": httpx.Response(200, json=everybody)}
    assert len(people_in((await page.get("/people")).text)) == 200
    assert (await page.get("/")).text.count('<option value="~') == 200


async def test_an_unknown_status_shows_everything(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    assert (await page.get("/", params={"status": "nonsense"})).status_code == 200
    assert "GET /images?limit=24" in receiver.calls


@pytest.mark.parametrize("path", ["/", "/images/1", "/fragments/pictures", "/fragments/images/1"])
async def test_names_from_outside_are_text(
    page: httpx.AsyncClient, receiver: FakeReceiver, path: str
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
    html = (await page.get(path)).text
    assert "&lt;img src=x onerror=1&gt;.jpg" in html
    assert "<img src=x" not in html


async def test_people_names_are_text_and_whole_path_segments(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    name = '"><b>/../%2e?#'
    receiver.people = [person_json(name, 4)]
    html = (await page.get("/people")).text
    assert "<b>" not in html
    assert 'action="/people/~4/pictures/4/delete"' in html
    assert 'src="/people/~4/pictures/4/thumbnail' in html
    # A receiver of before finds nobody by id.
    receiver.people = [{"id": 4, "name": name, "pictures": receiver.people[0]["pictures"]}]
    html = (await page.get("/people")).text
    assert "<b>" not in html
    address = "/people/%22%3E%3Cb%3E%2F..%2F%252e%3F%23/pictures/4"
    assert f'action="{address}/delete"' in html
    assert f'src="{address}/thumbnail' in html


async def test_no_page_needs_inline_script_or_style(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.images = [image_json(1, faces=[face_json(person="Ada", distance=0.3)])]
    receiver.people = [person_json("Ada", 1)]
    for path in ("/", "/images/1", "/people", "/nowhere"):
        html = (await page.get(path)).text
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)
        assert set(re.findall(r"<script[^>]*>(.*?)</script>", html)) == {""}
        assert not re.search(r"""(src|href|action)=["']?(https?:)?//""", html)


@pytest.mark.parametrize(
    "path", ["/", "/images/1", "/people", "/nowhere", "/static/app.js", "/livez", "/metrics"]
)
async def test_every_answer_has_the_security_headers(page: httpx.AsyncClient, path: str) -> None:
    headers = (await page.get(path)).headers
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
    page: httpx.AsyncClient,
    receiver: FakeReceiver,
    path: str,
    headers: dict[str, str],
    allowed: bool,
) -> None:
    files = {"files": ("a.jpg", b"x"), "file": ("a.jpg", b"x")}
    answer = await page.post(path, headers=headers, files=files)
    if allowed:
        assert answer.status_code != 403
    else:
        assert answer.status_code == 403
        assert receiver.calls == []


async def test_only_allowed_actions_are_offered(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    for status in ("pending", "processing", "processed", "failed", "rejected", "dead"):
        receiver.images = [image_json(1, status=status)]
        for path in ("/", "/images/1"):
            html = (await page.get(path)).text
            assert ('action="/images/1/retry"' in html) == (status in {"rejected", "dead"})
            assert 'action="/images/1/delete"' in html


async def test_another_look_is_offered_unless_it_would_forget_a_name(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    by_machine = face_json(person="Ada", distance=0.3)
    by_hand = face_json(1, person="Zoë", decided_by="hand")
    for faces, offered in (([], True), ([by_machine], True), ([by_machine, by_hand], False)):
        receiver.images = [image_json(1, faces=faces)]
        html = (await page.get("/images/1")).text
        assert ('action="/images/1/recognise"' in html) == offered
    for status in ("pending", "processing", "failed", "rejected", "dead"):
        receiver.images = [image_json(1, status=status)]
        assert 'action="/images/1/recognise"' not in (await page.get("/images/1")).text


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
    page: httpx.AsyncClient, receiver: FakeReceiver, status: str, words: str
) -> None:
    receiver.images = [image_json(1, status=status, error="out of luck", attempt=2)]
    assert words in (await page.get("/images/1")).text
    # The card's badge says the rest.
    assert words.rpartition(". ")[2] in (await page.get("/")).text


async def test_what_is_away_is_said(page: httpx.AsyncClient, receiver: FakeReceiver) -> None:
    receiver.problems = {"face_recog": "connection refused"}
    receiver.images = [image_json(1)]
    answer = await page.get("/")
    assert answer.status_code == 200
    assert "The face recogniser is away" in answer.text
    assert cards(answer.text) == ["image-1"]


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
    page: httpx.AsyncClient,
    receiver: FakeReceiver,
    state: str,
    left: int | None,
    note: str | None,
) -> None:
    receiver.encoding = {"state": state, "images_left": left}
    for address in ("/", "/fragments/pictures"):
        text = (await page.get(address)).text
        assert 'data-region="note"' in text
        assert (note in text) if note else ("of older pictures" not in text)


@pytest.mark.parametrize("path", ["/", "/people", "/images/1"])
async def test_without_the_receiver_the_page_says_so_and_keeps_trying(
    page: httpx.AsyncClient, receiver: FakeReceiver, path: str
) -> None:
    receiver.away = True
    answer = await page.get(path)
    assert answer.status_code == 503
    assert "The receiver does not answer" in answer.text
    assert 'data-busy="yes"' in answer.text


async def test_without_the_database_the_page_names_the_database(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.problems = {"database": "connection refused"}
    receiver.answers = {"GET /images": problem(503, "database is away")}
    answer = await page.get("/")
    assert answer.status_code == 503
    assert "The database is away" in answer.text


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(200, text="<html>"), httpx.Response(200, json=[]), httpx.Response(502)],
)
async def test_an_answer_that_makes_no_sense_counts_as_away(
    page: httpx.AsyncClient, receiver: FakeReceiver, answer: httpx.Response
) -> None:
    receiver.answers = {"GET /images": answer, "GET /status": answer, "GET /people": answer}
    assert (await page.get("/")).status_code == 503
    assert (await page.get("/people")).status_code == 503


async def test_a_fragment_without_the_receiver_leaves_the_list_alone(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.away = True
    answer = await page.get("/fragments/pictures")
    assert answer.status_code == 200
    assert 'data-region="problems"' in answer.text
    assert 'data-region="list"' not in answer.text


async def test_a_fragment_is_sent_once_and_again_when_it_changed(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.images = [image_json(1, status="processing")]
    first = await page.get("/fragments/pictures")
    headers = {"If-None-Match": first.headers["ETag"]}
    assert 'data-busy="yes"' in first.text
    assert (await page.get("/fragments/pictures", headers=headers)).status_code == 304
    receiver.images = [image_json(1)]
    second = await page.get("/fragments/pictures", headers=headers)
    assert second.status_code == 200
    assert 'data-busy="no"' in second.text


async def test_only_a_changed_card_has_a_new_version(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    def versions(html: str) -> dict[str, str]:
        return dict(re.findall(r'data-key="(image-\d)" data-version="(\w+)"', html))

    receiver.images = [image_json(2, status="processing"), image_json(1)]
    before = versions((await page.get("/")).text)
    receiver.images = [image_json(2), image_json(1)]
    after = versions((await page.get("/fragments/pictures")).text)
    assert before["image-1"] == after["image-1"]
    assert before["image-2"] != after["image-2"]


async def test_a_missing_picture_is_not_found(page: httpx.AsyncClient) -> None:
    assert (await page.get("/images/1")).status_code == 404
    assert (await page.get("/fragments/images/1")).status_code == 404


async def test_a_busy_receiver_does_not_make_a_picture_missing(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.answers = {"GET /images/1": problem(429, "too many requests")}
    assert (await page.get("/images/1")).status_code == 503
    assert (await page.get("/fragments/images/1")).headers["Facestack-Available"] == "no"


@pytest.mark.parametrize("path", ["/nowhere", "/images/abc", "/images/1/preview/x", "/static/no"])
async def test_an_unknown_address_is_not_found(page: httpx.AsyncClient, path: str) -> None:
    answer = await page.get(path)
    assert answer.status_code == 404
    assert "<h1>Not found</h1>" in answer.text


async def test_a_wrong_method_is_refused(page: httpx.AsyncClient) -> None:
    assert (await page.put("/people")).status_code == 405


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
    page: httpx.AsyncClient, receiver: FakeReceiver, path: str
) -> None:
    receiver.images = [image_json(1)]
    small = httpx.Response(200, content=b"small", headers={"ETag": '"1"'})
    receiver.answers["GET /images/1/thumbnail"] = small
    get, head = await page.get(path), await page.head(path)
    assert get.content
    assert head.content == b""
    assert (head.status_code, head.headers) == (get.status_code, get.headers)


async def test_a_person_is_asked_for_as_names_are_kept(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    await page.get("/", params={"person": "Zoe\u0308"})
    assert "GET /images?person=Zo%C3%AB&limit=24" in receiver.calls
    assert "GET /status?person=Zo%C3%AB" in receiver.calls


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
    page: httpx.AsyncClient, receiver: FakeReceiver, path: str, asked: str
) -> None:
    receiver.images = [image_json(1)]
    assert (await page.get(path)).status_code == 200
    assert [call for call in receiver.calls if "/status" in call] == [asked]


async def test_what_was_deleted_meanwhile_counts_as_deleted(page: httpx.AsyncClient) -> None:
    # The fake answers 404.
    for path in ("/images/1/delete", "/people/Ada/delete", "/people/Ada/pictures/1/delete"):
        answer = await page.post(path, headers={"Accept": "application/json"})
        assert answer.status_code == 200


async def test_static_files_are_cached_for_ever_by_version(page: httpx.AsyncClient) -> None:
    html = (await page.get("/")).text
    for address in re.findall(r'"(/static/[^"]+)"', html):
        assert "immutable" in (await page.get(address)).headers["Cache-Control"]
    assert (await page.get("/static/app.js?v=old")).headers["Cache-Control"] == "no-cache"


async def test_the_style_sheet_knows_every_position_of_a_picture_in_a_card(
    page: httpx.AsyncClient,
) -> None:
    style = (await page.get("/static/style.css")).text
    found = re.findall(r"\.at-(\d+) \{ object-position: (\d+)% (\d+)%; \}", style)
    assert found == [(str(n), str(n), str(n)) for n in range(0, 101, 5)]


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
    page: httpx.AsyncClient, receiver: FakeReceiver, path: str, call: str, then: str
) -> None:
    receiver.answers = {call: httpx.Response(204)}
    answer = await page.post(path)
    assert (answer.status_code, answer.headers["Location"]) == (303, then)
    assert receiver.calls == [call]
    scripted = await page.post(path, headers={"Accept": "application/json"})
    assert (scripted.status_code, scripted.json()) == (200, {"then": then})


async def test_a_refused_action_says_why(page: httpx.AsyncClient, receiver: FakeReceiver) -> None:
    receiver.answers = {"POST /images/5/retry": problem(409, "image 5 is processed")}
    answer = await page.post("/images/5/retry")
    assert answer.status_code == 409
    assert "Image 5 is processed." in answer.text
    scripted = await page.post("/images/5/retry", headers={"Accept": "application/json"})
    assert (scripted.status_code, scripted.json()) == (409, {"message": "Image 5 is processed."})


async def test_an_action_without_the_receiver_says_so(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.away = True
    answer = await page.post("/images/5/delete")
    assert answer.status_code == 503
    assert "The receiver does not answer" in answer.text


async def test_an_action_without_a_store_says_what_the_receiver_said(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    away = problem(503, "object store is not available, try again")
    receiver.answers = {"POST /images": away}
    answer = await page.post("/upload", files={"files": ("a", b"b")})
    assert answer.status_code == 503
    assert "Object store is not available, try again." in answer.text


async def test_retry_after_is_said(page: httpx.AsyncClient, receiver: FakeReceiver) -> None:
    busy = problem(429, "too many requests at once", **{"Retry-After": "3"})
    receiver.answers = {"DELETE /images/5": busy}
    answer = await page.post("/images/5/delete", headers={"Accept": "application/json"})
    assert answer.json()["message"] == "Too many requests at once. Try again in 3 s."


async def test_a_face_gets_a_name(page: httpx.AsyncClient, receiver: FakeReceiver) -> None:
    call = "POST /people/Ada%20%C3%84%3FB/pictures"
    receiver.answers = {call: httpx.Response(201)}
    answer = await page.post("/images/5/faces/2/name", data={"person": "  Ada Ä?B "})
    assert answer.headers["Location"] == "/images/5"
    sent = receiver.sent(call)
    assert sent == {"image_id": 5, "face_index": 2}


async def test_a_refused_name_is_shown_beside_the_face_with_what_was_typed(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.images = [image_json(5, faces=[face_json(0), face_json(1)])]
    receiver.answers = {"POST /people/Ada/pictures": problem(422, "no face was found")}
    answer = await page.post("/images/5/faces/1/name", data={"person": "Ada"})
    assert answer.status_code == 422
    first, second = answer.text.split('data-key="face-1"')
    assert "No face was found." not in first
    assert "No face was found." in second
    assert 'value="Ada"' in second


INSIST = "Enrol it anyway"
DOUBT = httpx.Response(
    422,
    json={
        "title": "Unprocessable",
        "detail": "the face is blurred: choose a sharper picture",
        "errors": [{"pointer": "/query/insist", "detail": "enrols it nevertheless, if true"}],
    },
)


async def test_a_face_in_doubt_is_named_when_somebody_insists(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.images = [image_json(5, faces=[face_json(0), face_json(1)])]
    receiver.answers = {
        "POST /people/Ada/pictures": DOUBT,
        "POST /people/Ada/pictures?insist=true": httpx.Response(201),
    }
    button = '<button class="button quiet" name="insist" value="true">'
    assert button not in (await page.get("/images/5")).text
    answer = await page.post("/images/5/faces/1/name", data={"person": "Ada"})
    assert answer.status_code == 422
    first, second = answer.text.split('data-key="face-1"')
    assert button not in first
    assert button in second
    assert "The face is blurred: choose a sharper picture.</p>" in second
    insisted = await page.post("/images/5/faces/1/name", data={"person": "Ada", "insist": "true"})
    assert insisted.headers["Location"] == "/images/5"


async def test_a_picture_in_doubt_is_added_when_somebody_insists(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.people = [person_json("Ada", 1)]
    receiver.answers = {
        "POST /people/Ada/pictures": DOUBT,
        "POST /people/Ada/pictures?insist=true": httpx.Response(201),
    }
    files = {"file": ("ada.jpg", b"picture")}
    asked = {"Accept": "application/json"}
    answer = await page.post("/people", data={"person": "Ada"}, files=files, headers=asked)
    assert (answer.status_code, answer.json()) == (
        422,
        {
            "message": "The face is blurred: choose a sharper picture.",
            "can_insist": True,
            "insist": "true",
            "choices": answer.json()["choices"],  # it may be somebody else of that name
        },
    )
    data = {"person": "Ada", "insist": "true"}
    assert (await page.post("/people", data=data, files=files)).status_code == 303
    # Both forms of the page have the button, and a box to tick where no script shows it.
    people = (await page.get("/people")).text
    assert people.count(INSIST) == people.count('type="checkbox" name="insist"') == 2


async def test_other_refusals_cannot_be_overruled(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.answers = {"POST /people/Ada/pictures": problem(422, "2 faces found")}
    answer = await page.post(
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
    page: httpx.AsyncClient, receiver: FakeReceiver, flaw: str | None, score: float, shown: str
) -> None:
    quality = {"score": score, "flaw": flaw, "size": 1, "sharpness": score, "pose": 1, "light": 1}
    receiver.images = [image_json(5, faces=[face_json(0, quality=quality)])]
    text = (await page.get("/images/5")).text
    assert shown in text
    assert f'<span class="number">{score}</span>' in text
    assert f"sharpness {score}" in text


@pytest.mark.parametrize("values", [{}, {"quality": None}], ids=["older receiver", "older result"])
async def test_a_face_without_a_quality_says_nothing_of_it(
    page: httpx.AsyncClient, receiver: FakeReceiver, values: dict[str, None]
) -> None:
    receiver.images = [image_json(5, faces=[face_json(0, **values)])]
    assert "Quality" not in (await page.get("/images/5")).text


@pytest.mark.parametrize("name", ["..", ".", "../images/5", "a/b"])
async def test_a_name_never_leads_elsewhere(
    page: httpx.AsyncClient, receiver: FakeReceiver, name: str
) -> None:
    receiver.images = [image_json(5, faces=[face_json(0)])]
    answer = await page.post("/images/5/faces/0/name", data={"person": name})
    assert answer.status_code == 422
    assert not [call for call in receiver.calls if call.startswith("POST")]


async def test_a_name_of_the_machine_is_denied_and_allowed_again(
    page: httpx.AsyncClient, receiver: FakeReceiver
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
        shown = (await page.get("/images/5")).text
        assert ("Not <bdi>Ada Ä?B</bdi>" in shown) == offered
        assert ('name="person" value="~3"' in shown) == offered
        assert ("Not <bdi>Eve</bdi>" in shown) == (face["denials"] is not None)
        assert ('name="person" value="~9"' in shown) == (face["denials"] is not None)
    for verb, method in (("deny", "PUT"), ("allow", "DELETE")):
        operation = f"{method} /images/5/faces/0/denials/Ada%20%C3%84%3FB"
        receiver.answers[operation] = httpx.Response(204)
        answer = await page.post(f"/images/5/faces/0/{verb}", data={"person": "Ada Ä?B"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/images/5")
        assert receiver.calls[-1] == operation


async def test_a_name_is_needed(page: httpx.AsyncClient, receiver: FakeReceiver) -> None:
    receiver.images = [image_json(5, faces=[face_json(0)])]
    answer = await page.post("/images/5/faces/0/name", data={"person": "  "})
    assert answer.status_code == 422
    assert "Enter a name." in answer.text


async def test_an_upload_is_passed_on_as_it_is(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    answer = await page.post("/upload", files={"files": (NASTY, b"content")})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    assert receiver.calls == ["POST /images"]
    assert b'name="files"' in receiver.bodies[0]
    assert b"content" in receiver.bodies[0]


async def test_a_type_that_is_not_ascii_is_passed_on(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    kind = "multipart/form-data; boundary=ä".encode("latin-1")
    answer = await page.post("/upload", headers={b"Content-Type": kind}, content=b"x")
    assert answer.status_code == 303
    assert receiver.calls == ["POST /images"]


async def test_slow_uploads_take_nothing_from_others(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    begun, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        begun.release()
        await go_on.wait()
        yield b"content"

    waiting = [asyncio.create_task(page.post("/upload", content=slow())) for _ in range(60)]
    for _ in waiting:
        await begun.acquire()
    assert (await page.post("/upload", files={"files": ("a", b"b")})).status_code == 303
    assert (await page.get("/")).status_code == 200
    assert receiver.calls.count("POST /images") == 1
    go_on.set()
    assert {(await task).status_code for task in waiting} <= {303, 429}


async def test_too_many_uploads_are_told_so(
    page: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def upload() -> httpx.Response:
        return await page.post("/upload", files={"files": ("a", b"b")})

    async def busy(*_: object, **__: object) -> httpx.Response:
        begun.release()
        await go_on.wait()
        return httpx.Response(202, json={"images": []})

    monkeypatch.setattr(ReceiverConnection, "call", busy)
    waiting = [asyncio.create_task(upload()) for _ in range(32)]
    for _ in waiting:
        await begun.acquire()
    refused = await page.post(
        "/upload", files={"files": ("a", b"b")}, headers={"Accept": "application/json"}
    )
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    wanted = "Too many uploads at once, 32 are being served. Try again in 1 s."
    assert refused.json()["message"] == wanted
    go_on.set()
    assert {(await task).status_code for task in waiting} == {303}


async def test_an_upload_that_is_too_large_is_told_so(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    answer = await page.post("/upload", headers={"Content-Length": "999999999"}, content=b"x")
    assert answer.status_code == 413
    assert "The body has 999999999 bytes, the limit is 104857600 bytes." in answer.text
    assert receiver.calls == []


async def test_an_upload_by_script_is_answered_with_json(page: httpx.AsyncClient) -> None:
    answer = await page.post(
        "/upload", files={"files": ("a", b"b")}, headers={"Accept": "application/json"}
    )
    assert answer.status_code == 202
    assert answer.json() == {"images": [{"id": 7, "status": "pending", "duplicate": False}]}


async def test_a_refused_upload_says_why(page: httpx.AsyncClient, receiver: FakeReceiver) -> None:
    document = {
        "title": "Unprocessable",
        "status": 422,
        "detail": "1 file is wrong",
        "errors": [{"pointer": "/files/0", "detail": "the file is empty"}],
    }
    receiver.answers = {"POST /images": httpx.Response(422, json=document)}
    answer = await page.post(
        "/upload", files={"files": ("a", b"b")}, headers={"Accept": "application/json"}
    )
    assert answer.status_code == 422
    assert answer.json()["message"] == "1 file is wrong. The file is empty."


async def test_a_known_picture_is_added(page: httpx.AsyncClient, receiver: FakeReceiver) -> None:
    receiver.answers = {"POST /people/Ada/pictures": httpx.Response(201)}
    answer = await page.post(
        "/people", data={"person": "Ada"}, files={"file": ("ada.jpg", b"content")}
    )
    assert (answer.status_code, answer.headers["Location"]) == (303, "/people")
    assert receiver.calls == ["POST /people/Ada/pictures"]
    assert b"content" in receiver.bodies[0]


@pytest.mark.parametrize(
    ("data", "files", "message"),
    [
        ({"person": " "}, {"file": ("a.jpg", b"x")}, "Enter a name."),
        ({"person": "Ada"}, {"file": ("", b"")}, "Choose a picture."),
        ({"person": "Ada"}, {"other": ("a.jpg", b"x")}, "Choose a picture."),
        ({"person": "Ada"}, None, "Choose one picture."),
        ({"person": "Ada"}, {"file": ("a.jpg", bytes(21 * 2**20))}, "larger than 20 MB"),
    ],
)
async def test_a_known_picture_needs_a_name_and_a_file(
    page: httpx.AsyncClient,
    receiver: FakeReceiver,
    data: dict[str, str],
    files: dict[str, tuple[str, bytes]] | None,
    message: str,
) -> None:
    answer = await page.post("/people", data=data, files=files)
    assert answer.status_code in {413, 422}
    assert message in answer.text
    assert receiver.calls == []


async def test_requests_are_counted_by_route(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    await page.get("/")
    receiver.away = True
    await page.get("/")
    text = (await page.get("/metrics")).text
    for operation in ("receiver GET /images", "receiver GET /status"):
        assert f'facestack_requests_total{{operation="{operation}"}}' in text
        errors = re.search(
            rf'facestack_request_errors_total{{operation="{operation}"}} (\S+)', text
        )
        assert errors is not None
        assert float(errors[1]) >= 1


async def test_it_is_ready_without_the_receiver(
    page: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.away = True
    assert (await page.get("/readyz")).status_code == 200
