"""The pages of administrators: keys, users, and who did what."""

from typing import Any, Final

import httpx
import pytest

from services.frontend.tests.fake_receiver import TIME, FakeReceiver, account_json, problem
from services.frontend.tests.test_frontend_log_in import Forms, log_in

NASTY: Final = "<img src=x>"
SECRET: Final = "fsk_abcdefgh2345_the-secret-half"
KEY: Final = {
    "id": "abcdefgh2345",
    "name": NASTY,
    "scopes": ["read", "submit"],
    "created_at": TIME,
    "created_by": NASTY,
    "expires_at": TIME,
    "revoked_at": None,
    "last_used_at": None,
}
USER: Final = {"id": 3, "name": NASTY, "role": "editor", "issuer": None, "disabled": False}
ACT: Final = {
    "at": TIME,
    "kind": "user",
    "who": NASTY,
    "address": "192.0.2.7",
    "action": "delete_image",
    "subject_kind": "image",
    "subject_id": "42",
    "status": None,
    "times": 1,
}


@pytest.fixture
def administrator(guarded: httpx.AsyncClient, receiver: FakeReceiver) -> httpx.AsyncClient:
    """A browser in which an administrator is logged in, whose forms are ours."""
    guarded.headers.update(log_in(guarded))
    users = [USER, {**USER, "id": 4, "issuer": "https://a.example", "disabled": True}]
    acts = [
        ACT,
        {**ACT, "subject_kind": "person", "subject_id": "7", "status": 403, "times": 5},
        {**ACT, "subject_kind": None, "subject_id": None},
    ]
    keys = [KEY, {**KEY, "id": "bbbbbbbb2345", "revoked_at": TIME, "last_used_at": TIME}]
    documents: dict[str, dict[str, Any]] = {
        "GET /session": account_json("administrator"),
        "GET /keys": {"keys": keys},
        "GET /users": {"users": users, "next_cursor": "more"},
        "GET /audit": {"acts": acts, "next_cursor": "older"},
    }
    receiver.answers = {
        operation: httpx.Response(200, json=document) for operation, document in documents.items()
    }
    made = httpx.Response(201, json={**KEY, "key": SECRET})
    receiver.answers["POST /keys"] = receiver.answers["POST /keys/abcdefgh2345/rotate"] = made
    for operation in ("POST /users", "PATCH /users/3", "DELETE /users/3"):
        receiver.answers[operation] = httpx.Response(204)
    receiver.answers["DELETE /keys/abcdefgh2345"] = problem(404, "gone already")
    return guarded


@pytest.mark.parametrize(
    ("path", "shows"),
    [
        ("/keys", ["never used", "Revoked", "read, submit", "abcdefgh2345"]),
        ("/users", ["Editor", "role and log-in by <bdi>https://a.example", "cursor=more"]),
        (
            "/audit?who=ada&cursor=x",
            [
                *("Delete image", "192.0.2.7", "(5 times)", "Refused: 403"),
                *('href="/images/42"', 'href="/people/~7"', 'href="/audit?who=ada"'),
                "who=ada&amp;cursor=older",
            ],
        ),
    ],
)
async def test_administrators_see_who_may_what_and_who_did_it(
    administrator: httpx.AsyncClient, receiver: FakeReceiver, path: str, shows: list[str]
) -> None:
    answer = await administrator.get(path)
    assert answer.status_code == 200
    for text in (*shows, "&lt;img src=x&gt;", 'href="/audit"'):
        assert text in answer.text, text
    assert "<img src=x" not in answer.text
    assert set(Forms(answer.text).tokens) == {administrator.headers["X-CSRF-Token"]}
    assert f"GET {path}" in receiver.calls
    receiver.answers[f"GET {path.partition('?')[0]}"] = problem(403, "this needs administer")
    answer = await administrator.get(path)
    assert (answer.status_code, "This needs administer." in answer.text) == (403, True)


async def test_a_key_is_shown_when_it_is_made_and_then_no_more(
    administrator: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    form = {"name": "camera", "scope": ["read", "submit"], "expires": "2030-12-31"}
    for path, data in (("/keys", form), ("/keys/abcdefgh2345/rotate", {})):
        answer = await administrator.post(path, data=data)
        assert (answer.status_code, SECRET in answer.text) == (200, True)
        assert answer.headers["Cache-Control"] == "no-store"
    assert receiver.sent("POST /keys") == {
        "name": "camera",
        "scopes": ["read", "submit"],
        "expires_at": "2030-12-31T23:59:59Z",
    }
    assert SECRET not in (await administrator.get("/keys")).text


NEW_USER: Final = {"name": "bob", "role": "viewer", "password": " twelve of them "}
CHANGES: Final[list[tuple[str, dict[str, str], str, dict[str, Any] | None]]] = [
    ("/keys/abcdefgh2345/revoke", {}, "DELETE /keys/abcdefgh2345", None),
    ("/users", NEW_USER, "POST /users", NEW_USER),
    ("/users/3", {"role": "viewer"}, "PATCH /users/3", {"role": "viewer"}),
    ("/users/3", {"password": "p"}, "PATCH /users/3", {"password": "p"}),
    ("/users/3", {"disabled": "yes"}, "PATCH /users/3", {"disabled": True}),
    ("/users/3", {"disabled": "no"}, "PATCH /users/3", {"disabled": False}),
    ("/users/3/delete", {}, "DELETE /users/3", None),
]
"""Forms, and what the receiver is asked for them."""


async def test_administrators_change_it(
    administrator: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    for path, form, operation, body in CHANGES:
        receiver.calls.clear()
        receiver.bodies.clear()
        answer = await administrator.post(path, data=form)
        leads_to = f"/{path.split('/')[1]}"
        assert (answer.status_code, answer.headers["location"]) == (303, leads_to)
        assert receiver.calls == [operation]
        assert body is None or receiver.sent(operation) == body


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("/keys", "POST /keys"),
        ("/keys/abcdefgh2345/rotate", "POST /keys/abcdefgh2345/rotate"),
        ("/users", "POST /users"),
        ("/users/3", "PATCH /users/3"),
        ("/users/3/delete", "DELETE /users/3"),
    ],
)
async def test_a_change_that_is_refused_says_why_where_it_was_made(
    administrator: httpx.AsyncClient, receiver: FakeReceiver, path: str, operation: str
) -> None:
    receiver.answers[operation] = problem(409, "that is taken")
    answer = await administrator.post(path, data={"name": "bob", "role": "viewer"})
    assert answer.status_code == 409
    assert ">That is taken.</p>" in answer.text
    assert path == "/users/3/delete" or "<h1>Keys" in answer.text or "<h1>Users" in answer.text
