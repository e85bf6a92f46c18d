"""Who gets in, on whose behalf the receiver is asked, and which forms are ours."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import Route

from services.common.lifecycle import Lifecycle
from services.frontend.adapters.browser import csrf_token
from services.frontend.adapters.receiver.connection import ReceiverConnection
from services.frontend.app import create_app
from services.frontend.domain.errors import LOGGED_OUT, ReceiverAwayError
from services.frontend.settings import FrontendSettings
from services.frontend.tests.fake_groups import group_json
from services.frontend.tests.fake_receiver import (
    FRONTEND_KEY,
    TOKEN,
    FakeReceiver,
    account_json,
    face_json,
    image_json,
    person_json,
    problem,
)

FILE: Final = ("a.jpg", b"x")
OTHER = "another-token-that-somebody-else-has-0123"
UNKNOWN = problem(401, "this needs a key: send Authorization: Bearer KEY")


def log_in(browser: httpx.AsyncClient, token: str = TOKEN) -> dict[str, str]:
    """Have the browser hold a session, and return the header that its forms show."""
    browser.cookies.set("__Host-session", token, domain="page.example")
    return {"X-CSRF-Token": csrf_token(token)}


async def fields(browser: httpx.AsyncClient, path: str = "/log-in") -> dict[str, str]:
    """Return the hidden fields of a page."""
    html = (await browser.get(path)).text
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', html))


OUTSIDE: Final[list[tuple[str, str, int, str | None]]] = [
    ("GET", "/", 303, "/log-in?then=%2F"),
    ("HEAD", "/people", 303, "/log-in?then=%2Fpeople"),
    ("GET", "/?status=dead&person=~1", 303, "/log-in?then=%2F%3Fstatus%3Ddead%26person%3D~1"),
    ("GET", "/nowhere", 303, "/log-in?then=%2Fnowhere"),
    ("GET", "/log-in/nowhere", 303, "/log-in?then=%2Flog-in%2Fnowhere"),
    ("GET", "/log-in/%2e%2e/people", 303, "/log-in?then=%2Flog-in%2F..%2Fpeople"),
    ("GET", "/people/~1/export", 303, "/log-in?then=%2Fpeople%2F~1%2Fexport"),
    ("GET", "/static/%2e%2e/people", 404, None),
    ("GET", "/fragments/pictures", 401, None),
    ("GET", "/fragments/names?name=a", 401, None),
    ("GET", "/images/1/thumbnail", 401, None),
    ("POST", "/images/1/delete", 401, None),
    ("POST", "/upload", 401, None),
    ("POST", "/log-out", 401, None),
    ("GET", "/log-in", 200, None),
    ("GET", "/static/style.css", 200, None),
    ("GET", "/livez", 200, None),
    ("GET", "/readyz", 200, None),
]
"""What is asked for without a session, and the answer."""

NO_SESSION: Final = [
    ["__Host-session="],
    ["__Host-session=short"],
    [f"__Host-session={TOKEN}\x01"],
    [f"__host-session={TOKEN}"],
    [f"session={TOKEN}"],
    # Tossed: another host of the same domain has set one of them, nobody knows which.
    [f"__Host-session={TOKEN}; __Host-session={TOKEN}"],
    [f"__Host-session={OTHER}", f"__Host-session={TOKEN}"],
]
"""Headers named Cookie that are no session."""


async def test_without_a_session_nothing_is_asked_of_the_receiver(
    guarded: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    for method, path, status, then in OUTSIDE:
        answer = await guarded.request(method, path)
        assert (answer.status_code, answer.headers.get("location")) == (status, then), path
        assert status != 401 or LOGGED_OUT in answer.text
    for cookies in NO_SESSION:
        guarded.cookies.clear()
        answer = await guarded.get("/", headers=[("cookie", cookie) for cookie in cookies])
        assert answer.status_code == 303, cookies
    assert receiver.calls == []


async def test_a_log_in_opens_a_new_session_and_ends_the_one_before(
    guarded: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    log_in(guarded, OTHER)  # what an attacker may have put there
    form = await fields(guarded, "/log-in?then=/people%3Fname%3Da")
    answer = await guarded.post("/log-in", data={**form, "name": "ada", "password": " pass word "})
    assert (answer.status_code, answer.headers["location"]) == (303, "/people?name=a")
    assert receiver.sent("POST /sessions") == {"name": "ada", "password": " pass word "}
    assert receiver.calls == ["POST /sessions", "DELETE /session"]
    assert [one.get("facestack-session") for one in receiver.headers] == [None, OTHER]
    cookies = {one.partition("=")[0]: one for one in answer.headers.get_list("set-cookie")}
    assert sorted(re.split("; ", cookies["__Host-session"])) == [
        "HttpOnly",
        "Path=/",
        "SameSite=lax",
        "Secure",
        f"__Host-session={TOKEN}",
    ]
    assert "Max-Age=0" in cookies["__Host-log-in"]
    assert dict(guarded.cookies) == {"__Host-session": TOKEN}


THEN: Final = {
    "/images/7?a=b": "/images/7?a=b",
    "/%0d%0aSet-Cookie:a=b": "/%0d%0aSet-Cookie:a=b",
    "https://evil.example/": "/",
    "//evil.example/": "/",
    "/\\evil.example": "/",
    "/\t/evil.example": "/",
    "\\\\evil.example": "/",
    "/a\r\nSet-Cookie: a=b": "/",
    "javascript:alert(1)": "/",
    "evil.example": "/",
    "": "/",
}
"""What is asked for after the log-in, and where that leads."""


async def test_a_log_in_leads_to_these_pages_only(guarded: httpx.AsyncClient) -> None:
    for then, leads_to in THEN.items():
        form = await fields(guarded)
        body = {**form, "name": "a", "password": "b", "then": then}
        answer = await guarded.post("/log-in", data=body)
        assert answer.headers["location"] == leads_to, then


REFUSED: Final[list[tuple[httpx.Response | None, int, str]]] = [
    (problem(401, "the name or the password is wrong"), 401, "The name or the password is wrong."),
    (problem(403, "is in none of the groups"), 403, "Is in none of the groups."),
    (problem(429, "too many", **{"Retry-After": "4"}), 429, "Too many. Try again in 4 s."),
    (problem(429, "wait: in 4 s", **{"Retry-After": "4"}), 429, "Wait: in 4 s.</p>"),
    (problem(422, "name is too long"), 422, "Name is too long."),
    (problem(503, "the database is away"), 503, "The database is away."),
    (httpx.Response(201, json={}), 503, "The receiver does not answer."),
    (None, 503, "The receiver does not answer."),
]
"""What the receiver answers to a log-in, None for nothing, and what people see."""


async def test_who_does_not_get_in_is_told_why(
    guarded: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    for answered, status, said in REFUSED:
        form = await fields(guarded)
        receiver.away = answered is None
        if answered is not None:
            receiver.answers = {"POST /sessions": answered}
        body = {**form, "name": "<ada>", "password": "secret-one"}
        answer = await guarded.post("/log-in", data=body)
        assert answer.status_code == status
        assert said in answer.text
        assert 'value="&lt;ada&gt;"' in answer.text
        assert "secret-one" not in answer.text
        assert "__Host-session" not in guarded.cookies


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_browser_that_keeps_no_cookie_is_told_what_is_needed(
    guarded: httpx.AsyncClient, receiver: FakeReceiver, scheme: str
) -> None:
    form = await fields(guarded, f"{scheme}://page.example/log-in")
    guarded.cookies.clear()  # as browsers do of cookies with this name over plain HTTP
    answer = await guarded.post("/log-in", data={**form, "name": "ada", "password": "x"})
    assert answer.status_code == 403
    assert "Open them over HTTPS" in answer.text
    assert receiver.calls == []


async def test_a_log_out_ends_the_session_and_clears_the_browser(
    guarded: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    shown = log_in(guarded)
    answer = await guarded.post("/log-out", headers=shown)
    assert (answer.status_code, answer.headers["location"]) == (303, "/log-in")
    assert receiver.calls == ["DELETE /session"]
    assert receiver.headers[0]["facestack-session"] == TOKEN
    assert answer.headers["clear-site-data"] == '"cache"'
    assert "__Host-session" not in guarded.cookies


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 303), ("/images/1", 303), ("/fragments/people", 401), ("/images/1/thumbnail", 401)],
)
async def test_a_session_that_is_over_shows_nothing(
    guarded: httpx.AsyncClient, receiver: FakeReceiver, path: str, status: int
) -> None:
    log_in(guarded)
    operations = ("session", "status", "images", "images/1", "people", "images/1/thumbnail")
    receiver.answers = {f"GET /{one}": UNKNOWN for one in operations}
    assert (await guarded.get(path)).status_code == status


async def test_an_action_without_a_session_that_holds_says_so(
    guarded: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    shown = log_in(guarded)
    receiver.answers = {"DELETE /images/1": UNKNOWN}
    answer = await guarded.post("/images/1/delete", headers={**shown, "Accept": "application/json"})
    assert (answer.status_code, answer.json()) == (401, {"message": LOGGED_OUT})


async def test_the_receiver_hears_of_the_browser_what_we_say_alone(
    guarded: httpx.AsyncClient, receiver: FakeReceiver, tmp_path: Path
) -> None:
    shown = log_in(guarded)
    smuggled = {
        "Authorization": "Bearer forged",
        "Facestack-Session": OTHER,
        "facestack-address": "192.0.2.1",
        "Facestack-By-Itself": "yes",
        "Facestack_Session": OTHER,
        "X-Forwarded-For": "192.0.2.2",
        "X-Anything": "at all",
        "Connection": "Authorization, Facestack-Session",
    }
    await guarded.get("/", headers=smuggled)
    await guarded.get("/images/1/thumbnail", headers=smuggled)
    await guarded.post("/images/1/delete", headers={**smuggled, **shown})
    files = {"files": ("a.jpg", b"x")}
    await guarded.post("/upload", headers={**smuggled, **shown}, files=files)
    (tmp_path / "frontend-key").write_text("a new key\n")
    await guarded.post("/images/2/delete", headers={**smuggled, **shown})
    assert len(receiver.headers) >= 7
    ours = {"accept", "accept-encoding", "connection", "user-agent", "host", "cookie"}
    ours |= {"content-length", "content-type", "authorization"}
    for headers in receiver.headers:
        told = set(headers) - ours - {"facestack-by-itself"}
        assert told == {"facestack-session", "facestack-address"}
        assert "cookie" not in headers
        assert headers.get_list("facestack-session") == [TOKEN]
        assert headers.get_list("facestack-address") == ["127.0.0.1"]
    assert sum("facestack-by-itself" in headers for headers in receiver.headers) == 1  # a picture
    keys = [headers.get_list("authorization") for headers in receiver.headers]
    assert keys == [[f"Bearer {FRONTEND_KEY}"]] * (len(keys) - 1) + [["Bearer a new key"]]


async def test_a_receiver_that_wants_a_key_of_pages_without_one_says_what_to_set(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.answers = {f"GET /{one}": UNKNOWN for one in ("status", "images", "people")}
    answer = await pages.get("/")
    assert answer.status_code == 503
    assert "set RECEIVER_KEY_FILE" in answer.text
    assert "facestack-address" not in receiver.headers[0]
    assert (await pages.get("/log-in")).status_code == 404


# ---- Forms --------------------------------------------------------------------------------------


def actions(settings: FrontendSettings) -> list[str]:
    """Return the path of every action, with 1 for what changes."""
    app: Any = create_app(httpx.AsyncClient(), Lifecycle({}, drain_seconds=0), settings)
    while not isinstance(app, FastAPI):
        app = app._app  # of the middleware around it
    routes = [
        route
        for included in app.routes
        for route in getattr(included, "original_router", app).routes
        if isinstance(route, Route) and "POST" in (route.methods or ())
    ]
    return [re.sub(r"{\w+}", "1", route.path) for route in routes]


async def test_no_action_is_tried_for_a_form_that_is_not_ours(
    guarded: httpx.AsyncClient, receiver: FakeReceiver, tmp_path: Path
) -> None:
    ours = log_in(guarded)["X-CSRF-Token"]
    guarded.cookies.set("__Host-log-in", OTHER, domain="page.example")
    foreign = csrf_token("what another browser has, 0123456789")
    tried: list[dict[str, Any]] = [
        {},
        {"headers": {"X-CSRF-Token": ""}},
        {"headers": {"X-CSRF-Token": foreign}, "data": {"csrf": ours}},
        {"data": {"csrf": foreign}},
    ]
    with_file: dict[str, Any] = {"files": {"file": FILE}}
    paths = actions(FrontendSettings(receiver_key_file=tmp_path / "frontend-key"))
    assert len(paths) > 25
    for path in paths:
        files = with_file if path in {"/upload", "/people", "/search"} else {}
        for one in tried:
            answer = await guarded.post(path, **files, **one)
            assert answer.status_code == 403, (path, one, answer.text)
            assert "Load it again" in answer.text
    assert receiver.calls == []


SENT_ON: Final[list[tuple[str, dict[str, Any], str]]] = [
    ("/images/1/retry", {}, "POST /images/1/retry"),
    ("/images/1/delete", {}, "DELETE /images/1"),
    ("/people/~1/rename", {"data": {"person": "Ada"}}, "PATCH /people/~1"),
    ("/upload", {"files": {"files": FILE}}, "POST /images"),
    ("/search", {"files": {"file": FILE}}, "POST /search"),
    ("/people", {"data": {"person": "Ada"}, "files": {"file": FILE}}, "POST /people/Ada/pictures"),
]
"""Forms, and what the receiver is asked for them."""


@pytest.mark.parametrize("by", ["header", "field"])
async def test_a_form_of_ours_is_sent_on(
    guarded: httpx.AsyncClient, receiver: FakeReceiver, by: str
) -> None:
    shown = log_in(guarded)
    for path, form, operation in SENT_ON:
        body, headers = form, shown
        if by == "field":  # without script: the first one, as in our forms
            body = {**form, "data": {"csrf": shown["X-CSRF-Token"], **form.get("data", {})}}
            headers = {}
        receiver.calls.clear()
        await guarded.post(path, headers=headers, **body)
        assert operation in [call.partition("?")[0] for call in receiver.calls], path


class Forms(HTMLParser):
    """Finds forms that post, and whether each begins with the field that shows it is ours."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.actions: list[str] = []
        self.tokens: list[str | None] = []
        self.is_first = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "form" and values.get("method") == "post":
            self.actions.append(str(values["action"]))
            self.is_first = True
        elif self.is_first:
            self.tokens.append(values["value"] if values.get("name") == "csrf" else None)
            self.is_first = False


def everything(receiver: FakeReceiver) -> list[str]:
    """Have the receiver know one of each, and return the paths of all pages."""
    faces = [
        face_json(person="Ada", person_id=1, distance=0.3),
        face_json(1, denials=["Bob"], denial_ids=[2]),
        face_json(2, person="Ada", person_id=1, distance=0.55, ambiguous=True),
    ]
    struck_out = [{"index": 3, "box": face_json()["box"]}]
    receiver.images = [
        image_json(1, faces=faces, struck_out=struck_out),
        image_json(2, status="dead"),
    ]
    merges = [{"id": 1, "name": "Lovelace", "created_at": "2026-01-02T03:04:05Z"}]
    receiver.people = [person_json("Ada", 1, 2, merges=merges), person_json("Bob", 9)]
    groups = [group_json(1, 1, 2)]
    question = {"id": 1, "group": groups[0], "other": groups[0], "person": None}
    receiver.answers = {
        "GET /groups": httpx.Response(200, json={"groups": groups, "next_cursor": None}),
        "GET /groups/1": httpx.Response(200, json={**groups[0], "next_cursor": None}),
        "GET /questions": httpx.Response(200, json={"questions": [question]}),
    }
    live = ["/people", "/people/~1", "/images/1", "/images/2", "/who", "/who/1"]
    fragments = [f"/fragments{path}" for path in ("/pictures", *live)]
    return ["/", *live, "/people/~1/merge", "/people/~1/erase", "/search", "/nowhere", *fragments]


@pytest.mark.parametrize(
    ("role", "writes"),
    [("viewer", 0), ("editor", 31), ("administrator", 34), (None, 34)],
)
async def test_pages_offer_what_one_may_do_in_forms_that_are_ours(
    guarded: httpx.AsyncClient, receiver: FakeReceiver, role: str | None, writes: int
) -> None:
    log_in(guarded)
    paths = everything(receiver)
    receiver.answers["GET /session"] = (
        problem(503, "away") if role is None else httpx.Response(200, json=account_json(role))
    )
    found: set[str] = set()
    for path in paths:
        answer = await guarded.get(path)
        assert answer.status_code == (404 if path == "/nowhere" else 200), (path, answer.text)
        forms = Forms(answer.text)
        assert set(forms.tokens) <= {csrf_token(TOKEN)}, path
        assert len(forms.tokens) == len(forms.actions)
        found |= set(forms.actions)
        if "/fragments" not in path:
            assert "/log-out" in forms.actions
            assert f'content="{csrf_token(TOKEN)}"' in answer.text
            if role and path != "/nowhere":
                assert "<bdi>ada</bdi>" in answer.text
                assert role.capitalize() in answer.text
    assert found >= {"/log-out", "/search"}
    assert len(found - {"/log-out", "/search"}) == writes, sorted(found)
    for_good = {"/people/~1/erase", "/people/~1/delete", "/people/~9/delete"}
    assert found & for_good == (for_good if role in ("administrator", None) else set())


async def test_what_the_receiver_does_not_allow_is_said(
    guarded: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    shown = log_in(guarded)
    receiver.answers = {"DELETE /images/1": problem(403, "this needs the scope name")}
    answer = await guarded.post("/images/1/delete", headers=shown)
    assert answer.status_code == 403
    assert "This needs the scope name." in answer.text


async def test_while_its_key_is_replaced_either_is_shown_until_the_receiver_takes_one() -> None:
    shown: list[str] = []
    taken = "old"

    def answer(request: httpx.Request) -> httpx.Response:
        shown.append(request.headers["Authorization"])
        if shown[-1] != f"Bearer {taken}":
            headers = {"WWW-Authenticate": "Bearer"}
            return httpx.Response(401, json={"title": "Unauthorized"}, headers=headers)
        return httpx.Response(200, json=account_json())

    async with httpx.AsyncClient(
        transport=httpx.MockTransport(answer), base_url="http://receiver"
    ) as client:
        connection = ReceiverConnection(client, keys=lambda: ["new", "old"])
        await connection.call("GET /session")
        await connection.call("GET /session")
        assert shown == ["Bearer new", "Bearer old", "Bearer old"]
        taken = "new"
        await connection.call("GET /session")
        assert shown[3:] == ["Bearer old", "Bearer new"]
        taken = "another"
        with pytest.raises(ReceiverAwayError, match="RECEIVER_KEY_FILE"):
            await connection.call("GET /session")
