"""A receiver that answers from memory."""

import json
from dataclasses import dataclass, field
from typing import Any

import httpx

FRONTEND_KEY = "the key of these pages"
TOKEN = "token-of-a-session-0123456789abcdef"

SCOPES = {
    "viewer": ["read"],
    "editor": ["read", "submit", "name"],
    "administrator": ["read", "submit", "name", "administer"],
}


def session_json(role: str = "editor", token: str = TOKEN) -> dict[str, Any]:
    """A session that has just begun."""
    return {"token": token, "name": "ada", "role": role, "ends_at": TIME}


def account_json(role: str = "editor") -> dict[str, Any]:
    """Who is logged in."""
    return {"name": "ada", "role": role, "scopes": SCOPES[role]}


TIME = "2026-01-02T03:04:05.678Z"


def face_json(index: int = 0, **values: Any) -> dict[str, Any]:
    """A face as the receiver describes it."""
    return {
        "index": index,
        "box": {"left": 100, "top": 50, "right": 200, "bottom": 150},
        "detection_score": 0.9,
        "ambiguous": False,
        "person": None,
        "person_id": None,
        "distance": None,
        "decided_by": "machine",
        "candidates": [],
        "denials": [],
        "denial_ids": [],
        **values,
    }


def image_json(picture_id: int, **values: Any) -> dict[str, Any]:
    """A picture as the receiver describes it."""
    return {
        "id": picture_id,
        "path": f"uploads/{picture_id:064}",
        "name": f"picture-{picture_id}.jpg",
        "status": "processed",
        "attempt": 1,
        "error": None,
        "created_at": TIME,
        "updated_at": TIME,
        "processed_at": TIME,
        "next_attempt_at": None,
        "width": 400,
        "height": 300,
        "engine": "dlib",
        "faces": [],
        **values,
    }


def person_json(name: str, *ids: int, **values: Any) -> dict[str, Any]:
    """A person as the receiver describes one, with these known pictures; the first is the id."""
    pictures = [
        {"id": known_id, "image_name": f"{name}/{known_id}.jpg", "created_at": TIME}
        for known_id in ids
    ]
    return {
        "id": ids[0] if ids else 7,
        "name": name,
        "hidden": False,
        "face": None,
        "pictures": pictures,
        **values,
    }


def problem(status: int, detail: str, **headers: str) -> httpx.Response:
    """A problem document."""
    document = {"type": "about:blank", "title": "Refused", "status": status, "detail": detail}
    return httpx.Response(status, json=document, headers=headers)


DOUBT = httpx.Response(
    422,
    json={
        "title": "Unprocessable",
        "detail": "the face is blurred: choose a sharper picture",
        "errors": [{"pointer": "/query/insist", "detail": "enrols it nevertheless, if true"}],
    },
)
"""A refusal that a person may overrule."""


@dataclass
class FakeReceiver:
    """Answers as the receiver would; ``answers`` overrides by "METHOD /path"."""

    images: list[dict[str, Any]] = field(default_factory=list)
    people: list[dict[str, Any]] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    encoding: dict[str, Any] | None = None
    backup: dict[str, Any] | None = None
    answers: dict[str, httpx.Response] = field(default_factory=dict)
    next_cursor: str | None = None
    next_person: str | None = None
    away: bool = False
    calls: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    patience: list[float] = field(default_factory=list)
    """For how many seconds an answer to each call is waited for."""

    headers: list[httpx.Headers] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    """What was asked for unless it is still the same."""

    async def answer(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            raise httpx.ConnectError("connection refused", request=request)
        path = request.url.raw_path.decode()
        operation = f"{request.method} {path}"
        self.calls.append(operation)
        self.bodies.append(await request.aread())
        self.patience.append(request.extensions["timeout"]["read"])
        self.headers.append(request.headers)
        self.tags += request.headers.get_list("if-none-match")
        found = None
        for known, answer in {**self._defaults(), **self.answers}.items():
            if operation == known or operation.startswith(f"{known}?"):
                found = answer
        return found or problem(404, "no such thing")

    def _defaults(self) -> dict[str, httpx.Response]:
        counts = dict.fromkeys(
            ["pending", "processing", "processed", "failed", "rejected", "dead"], 0
        )
        for image in self.images:
            counts[image["status"]] += 1
        report = {
            "images": None if "database" in self.problems else counts,
            "oldest_pending_seconds": None,
            "encoding": self.encoding,
            "backup": self.backup,
            "problems": self.problems,
        }
        page = {"images": self.images, "next_cursor": self.next_cursor}
        people = {"people": self.people, "next_cursor": self.next_person}
        accepted = {"images": [{"id": 7, "status": "pending", "duplicate": False}]}
        return {
            "GET /session": httpx.Response(200, json=account_json()),
            "POST /sessions": httpx.Response(201, json=session_json()),
            "DELETE /session": httpx.Response(204),
            "GET /status": httpx.Response(200, json=report),
            "GET /people": httpx.Response(200, json=people),
            "GET /images": httpx.Response(200, json=page),
            "POST /images": httpx.Response(202, json=accepted),
            **{
                f"GET /images/{image['id']}": httpx.Response(200, json=image)
                for image in self.images
            },
            **{
                f"GET /people/~{person['id']}": httpx.Response(200, json={"merges": [], **person})
                for person in self.people
            },
        }

    def sent(self, operation: str) -> Any:
        """Return the JSON body of the only call of an operation."""
        assert self.calls.count(operation) == 1, self.calls
        return json.loads(self.bodies[self.calls.index(operation)])
