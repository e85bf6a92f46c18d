"""How every page answers: whole, as the fragment that keeps it live, or with what is wrong."""

from collections.abc import Awaitable
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar

from fastapi import Query, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from services.common import bodies
from services.frontend import domain
from services.frontend.adapters.receiver import Receiver
from services.frontend.adapters.rendering import Renderer, StaticFile
from services.frontend.domain import (
    NotNowError,
    Problem,
    ReceiverAwayError,
    RefusedError,
    StatusReport,
)

FOREVER: Final = "private, max-age=31536000, immutable"

MAX_NAME_FORM_BYTES: Final = 64 * 1024
"""Of a form without files."""

Filter = Annotated[str | None, Query(max_length=200)]
T = TypeVar("T")


class Answers:
    """Makes answers of what the receiver says."""

    def __init__(
        self, receiver: Receiver, renderer: Renderer, files: dict[str, StaticFile]
    ) -> None:
        self._receiver = receiver
        self._renderer = renderer
        self._files = files

    async def report(
        self, person: str | None = None, *, counts: bool = True
    ) -> StatusReport | RefusedError | ReceiverAwayError:
        """Return what is away, and how many pictures there are, of a person if one is named."""
        return await or_error(self._receiver.status(person, counts=counts))

    def page(
        self, template: str, view: dict[str, Any], status: int = HTTPStatus.OK, **values: Any
    ) -> Response:
        """Return a page; 503 when what it shows is not available."""
        return HTMLResponse(
            self._renderer.render(template, **view, **values),
            status if view["available"] else HTTPStatus.SERVICE_UNAVAILABLE,
            headers={"Cache-Control": "no-store"},
        )

    def fragment(self, request: Request, template: str, view: dict[str, Any]) -> Response:
        """Return what changes on a page, unless the browser has it."""
        if view.get("missing"):
            return Response(status_code=HTTPStatus.NOT_FOUND)
        html = self._renderer.render("fragment.html", content=template, **view)
        tag = f'"{domain.fingerprint(html)}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if not view["available"]:
            # Not 503: the fragment is the answer, and browsers report each failed poll.
            headers["Facestack-Available"] = "no"
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return HTMLResponse(html, headers=headers)

    async def small(self, request: Request, address: str, version: str | None) -> Response:
        """Return what the receiver has at an address.

        With a version in its own address it may be kept, for another picture has another one.
        """
        try:
            content, tag = await self._receiver.small(address, request.headers.get("if-none-match"))
        except ReceiverAwayError:
            return Response(status_code=HTTPStatus.SERVICE_UNAVAILABLE)
        except RefusedError:  # it is no picture, or lost, or an older receiver makes none
            return self.placeholder()
        headers = {"Cache-Control": FOREVER if version else "no-cache", "ETag": tag}
        if content is None:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(content, media_type="image/jpeg", headers=headers)

    def placeholder(self) -> Response:
        """Return a drawing where there is no picture."""
        file = self._files["placeholder.svg"]
        headers = {"Cache-Control": "private, max-age=60"}
        return Response(file.content, media_type=file.media_type, headers=headers)

    async def act(self, request: Request, action: Awaitable[None], then: str) -> Response:
        """Do what a form asks for; answer with the page to go to ``then``, or why not."""
        error = await error_of(action)
        return done(request, then) if error is None else self.failure(request, error)

    def failure(self, request: Request, error: RefusedError | ReceiverAwayError) -> Response:
        """Say why an action was not done."""
        message, status = explain(error)
        if wants_json(request):
            doubt = {"can_insist": True} if can_insist(error) else {}
            return JSONResponse({"message": message, **doubt}, status)
        return self.message(status, message)

    def message(self, status: int, message: str) -> Response:
        """Return a page with nothing but a message."""
        title = "Not found" if status == HTTPStatus.NOT_FOUND else "That did not work"
        return HTMLResponse(
            self._renderer.render("message.html", title=title, message=message), status
        )


async def named(request: Request) -> str:
    """Return the field ``person`` of a form."""
    async with bodies.limited(request, MAX_NAME_FORM_BYTES).form(max_files=0, max_fields=4) as form:
        return str(form.get("person", "")).strip()


def explain(error: RefusedError | ReceiverAwayError) -> tuple[str, int]:
    """Return what is wrong, for people, and the status of an answer that says so."""
    if isinstance(error, RefusedError):
        return error.message, error.status
    if isinstance(error, NotNowError):
        return str(error), HTTPStatus.SERVICE_UNAVAILABLE
    message = domain.describe_problem("receiver", str(error)).message
    return f"{message} Try again in a moment.", HTTPStatus.SERVICE_UNAVAILABLE


def can_insist(error: RefusedError | ReceiverAwayError) -> bool:
    """Tell whether somebody may insist."""
    return isinstance(error, RefusedError) and error.can_insist


def problems(*answers: object) -> list[Problem]:
    """Return what is away, as far as the answers tell."""
    report = answers[0]
    if isinstance(report, StatusReport) and report.problems:
        return [domain.describe_problem(*item) for item in sorted(report.problems.items())]
    for answer in answers:
        if isinstance(answer, NotNowError):
            return [Problem("receiver", str(answer), "")]
        if isinstance(answer, ReceiverAwayError):
            return [domain.describe_problem("receiver", str(answer))]
    return []


def wants_json(request: Request) -> bool:
    """Tell whether a script asks."""
    return "application/json" in request.headers.get("accept", "")


def done(request: Request, then: str, said: str = "") -> Response:
    """Answer an action that was done; ``said`` is what has come of it, for people."""
    if wants_json(request):
        return JSONResponse({"then": then, "said": said} if said else {"then": then})
    return RedirectResponse(then, HTTPStatus.SEE_OTHER)


async def or_error(call: Awaitable[T]) -> T | RefusedError | ReceiverAwayError:
    """Return what a call of the receiver returns, or why there is nothing."""
    try:
        return await call
    except (RefusedError, ReceiverAwayError) as error:
        return error


async def or_none(call: Awaitable[T]) -> T | None:
    """Return what a call of the receiver returns, if anything."""
    result = await or_error(call)
    return None if isinstance(result, (RefusedError, ReceiverAwayError)) else result


async def error_of(action: Awaitable[None]) -> RefusedError | ReceiverAwayError | None:
    """Return why an action was not done; None when it was."""
    return await or_error(action)


async def gone(deletion: Awaitable[None]) -> None:
    """Delete what may be gone already: somebody else was faster, and that is all right."""
    try:
        await deletion
    except RefusedError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
