"""How many requests of each kind are served at once, so that none takes the others' places."""

from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from services.common import metrics
from services.common.cross_site import refuse_cross_site
from services.common.door import Room
from services.receiver.adapters.http.problems import problem

SUBMISSIONS: Final = frozenset({"/image/post", "/images/post"})
_TARGETS: Final = {path.encode(): f"POST {path}" for path in SUBMISSIONS}

_UPLOADS: Final = 64
"""Bodies on disk that wait for the object store, which gets 8 pictures at a time."""

_REGIONS: Final = 32
"""One at a time is read; sidecars wait on disk."""

_ENROLMENTS: Final = 16
"""They wait for the recogniser, which gets 4 pictures at a time; another name takes a place, too,
as it has a body, and so does an answer to a question, by which a group may get a name."""

_SEARCHES: Final = 16
"""They wait for the recogniser, which gets 2 pictures at a time, and for people."""

_LOG_INS: Final = 64
"""Of these, half may wait for a password to be hashed, as :mod:`hashing` says; so may users that
are added or changed."""

_PICTURES: Final = 64
"""They wait for the object store, as :mod:`files` says how many at a time."""

_THUMBNAILS: Final = 256
"""Small, and a page asks for many at once; those that nobody has asked for are made one by one."""


class Rooms:
    """The rooms of one server."""

    def __init__(self, max_in_flight: int) -> None:
        self._submissions = Room("submissions", max_in_flight, takes_body=True)
        self._enrolments = Room("enrolments", _ENROLMENTS, takes_body=True)
        self._pictures = Room("pictures", _PICTURES, takes_body=False)
        self._others = Room("requests", max_in_flight, takes_body=False)
        self._posted = {
            **dict.fromkeys(SUBMISSIONS, self._submissions),
            "/images": Room("uploads", _UPLOADS, takes_body=True),
            "/search": Room("searches", _SEARCHES, takes_body=True),
        }
        self._log_ins = Room("log-ins", _LOG_INS, takes_body=True)
        self._posted |= dict.fromkeys(("/sessions", "/users"), self._log_ins)
        regions = Room("regions", _REGIONS, takes_body=True)
        thumbnails = Room("thumbnails", _THUMBNAILS, takes_body=False)
        self._by_last_part = {
            "regions": regions,
            "sidecar": regions,
            "thumbnail": thumbnails,
            "preview": thumbnails,
            "picture": self._pictures,
        }
        self._refusal = refuse({}, self._submissions.refusal())

    def of(self, scope: Scope) -> Room:
        """Return the request's room.

        Raises ``HTTPException`` with 403 for what another site's page would have a browser change.
        """
        refuse_cross_site(scope)
        path: str = scope["path"]
        belongs_to, _, last_part = path.rpartition("/")
        # Somebody may be called "thumbnail", too.
        ends_in_name = belongs_to == "/people" or belongs_to.endswith("/denials")
        if not ends_in_name and (room := self._by_last_part.get(last_part)):
            return room
        if scope["method"] == "POST":
            if path.startswith("/people/") or last_part in ("faces", "restore"):
                return self._enrolments
            return self._posted.get(path, self._others)
        if scope["method"] == "PATCH" or (
            scope["method"] == "PUT"
            and not ends_in_name
            and (last_part in {"person", "face"} or belongs_to == "/questions")
        ):
            return self._log_ins if belongs_to == "/users" else self._enrolments
        if scope["method"] in {"GET", "HEAD"} and "/pictures/" in path:
            return self._pictures
        return self._others

    def refuse_early(self, method: bytes, target: bytes) -> Response | None:
        """Return the answer to a submission that finds no place, counted like any other.

        Only to those that are written as clients write them: :class:`Door` refuses all others.
        """
        if method != b"POST" or target not in _TARGETS or not self._submissions.is_full:
            return None
        metrics.record(_TARGETS[target], 0.0, error=False)
        return self._refusal


def refuse(_: Scope, error: HTTPException) -> Response:
    """Return the response for what never reached a route."""
    return problem(error.status_code, error.detail, headers=error.headers)
