"""How many requests of each kind are served at once, so that none takes the others' places."""

from collections.abc import Callable
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from services.common.door import Room
from services.receiver.adapters.http.problems import problem

SUBMISSIONS: Final = frozenset({"/image/post", "/images/post"})

_UPLOADS: Final = 64
"""Bodies on disk that wait for the object store, which gets 8 pictures at a time."""

_ENROLMENTS: Final = 16
"""They wait for the recogniser, which gets 4 pictures at a time."""

_PICTURES: Final = 64
"""They wait for the object store, as :mod:`files` says how many at a time."""


def by_kind(max_in_flight: int) -> Callable[[Scope], Room]:
    """Return a function that tells a request's room."""
    submissions = Room("submissions", max_in_flight, takes_body=True)
    uploads = Room("uploads", _UPLOADS, takes_body=True)
    enrolments = Room("enrolments", _ENROLMENTS, takes_body=True)
    pictures = Room("pictures", _PICTURES, takes_body=False)
    others = Room("requests", max_in_flight, takes_body=False)

    def room(scope: Scope) -> Room:
        path: str = scope["path"]
        if scope["method"] == "POST":
            if path in SUBMISSIONS:
                return submissions
            if path == "/images":
                return uploads
            if path.startswith("/people/"):
                return enrolments
        elif scope["method"] == "GET" and (path.endswith("/picture") or "/pictures/" in path):
            return pictures
        return others

    return room


def refuse(_: Scope, error: HTTPException) -> Response:
    """Return the response for what never reached a route."""
    return problem(error.status_code, error.detail, headers=error.headers)
