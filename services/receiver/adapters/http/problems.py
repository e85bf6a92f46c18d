"""Problem documents (RFC 9457) for everything that goes wrong."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import orjson
import structlog
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from services.common.door import RETRY_AFTER
from services.common.errors import (
    AwayError,
    ObjectRefusedError,
    OtherEngineError,
    StoredFacesBusyError,
    StoredFacesError,
)
from services.receiver.domain.errors import (
    BusyError,
    ConflictError,
    Fault,
    InvalidError,
    NotFoundError,
)

log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"

_REFUSALS: Final[Mapping[type[Exception], HTTPStatus]] = {
    NotFoundError: HTTPStatus.NOT_FOUND,
    ConflictError: HTTPStatus.CONFLICT,
    InvalidError: HTTPStatus.UNPROCESSABLE_ENTITY,
    ObjectRefusedError: HTTPStatus.UNPROCESSABLE_ENTITY,
}
"""Refusals whose message is meant for the client; any other one that comes here is a bug."""


def problem(
    status: int,
    detail: str,
    *,
    faults: Sequence[Fault] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a problem document."""
    content: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if faults:
        content["errors"] = [{"pointer": fault.pointer, "detail": fault.detail} for fault in faults]
    return Response(orjson.dumps(content), status, headers, MEDIA_TYPE)


def faults_of(error: ValidationError | RequestValidationError) -> list[Fault]:
    """Return where a request is wrong, and how."""
    return [
        # A rule of our own says it in its own words.
        Fault(
            "".join(f"/{part}" for part in wrong["loc"]),
            str(wrong["ctx"]["error"]) if wrong["type"] == "value_error" else wrong["msg"],
        )
        for wrong in error.errors()
    ]


def install(app: Starlette) -> None:
    """Answer every exception with a problem document."""
    for kind in _REFUSALS:
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(AwayError, _away)
    app.add_exception_handler(BusyError, _busy)
    app.add_exception_handler(StoredFacesError, _no_search)
    app.add_exception_handler(RequestValidationError, _wrong_parameters)
    app.add_exception_handler(HTTPException, _not_served)
    app.add_exception_handler(ClientDisconnect, _gone)
    # As an exception handler it would be raised again, and the server closes the connection then.
    app.add_middleware(ExceptionMiddleware, handlers={Exception: _unexpected})


def unavailable(service: str) -> HTTPException:
    """Return what is said while something that the receiver needs is away."""
    detail = f"{service} is not available, try again"
    return HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=RETRY_AFTER)


async def _refused(_: Request, error: Exception) -> Response:
    return problem(_REFUSALS[type(error)], str(error), faults=getattr(error, "faults", ()))


async def _wrong_parameters(_: Request, error: Any) -> Response:
    return problem(422, "the request's parameters are wrong", faults=faults_of(error))


async def _busy(_: Request, error: Exception) -> Response:
    return problem(429, str(error), headers=RETRY_AFTER)


async def _away(request: Request, error: Any) -> Response:
    # Not the path itself, in which somebody's name may stand.
    route = getattr(request.scope.get("route"), "path_format", None)
    log.warning("dependency is away", dependency=error.service, error=str(error), route=route)
    away = unavailable(error.service)
    return problem(away.status_code, away.detail, headers=away.headers)


async def _no_search(request: Request, error: Exception) -> Response:
    log.warning("cannot search", error=str(error), path=request.url.path)
    if isinstance(error, StoredFacesBusyError):
        return problem(429, "too many searches at once, try again", headers=RETRY_AFTER)
    if isinstance(error, OtherEngineError):
        detail = (
            "face_recog has another engine than a moment ago, whose stored faces are being loaded:"
            " try again in a minute"
        )
    else:
        detail = (
            "faces cannot be looked for now: people, which has the stored ones in memory, is not"
            " available or still loads them. All else works; try again"
        )
    return problem(503, detail, headers=RETRY_AFTER)


async def _not_served(request: Request, error: Any) -> Response:
    headers = dict(error.headers or {})
    detail = error.detail
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted(_methods(request)))
        detail = f"{request.url.path} takes {headers['Allow']}"
    elif error.status_code == HTTPStatus.NOT_FOUND:
        detail = f"there is nothing at {request.url.path}"
    return problem(error.status_code, detail, headers=headers)


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _unexpected(_: Request, error: Exception) -> Response:
    log.error("unexpected error", exc_info=error)
    # What it says may be internal.
    return problem(500, "the receiver failed; its log says why")


def _methods(request: Request) -> set[str]:
    """Return what the address takes; the router only names the first route's methods."""
    routes = [
        route
        for route in request.app.routes
        if isinstance(route, Route) and route.path_regex.match(request.url.path)
    ]
    return {
        method for route in routes if route.path == routes[0].path for method in route.methods or ()
    }
