"""How every page answers: whole, as the fragment that keeps it live, or with what is wrong."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar

from fastapi import Query, Request
from starlette.datastructures import FormData
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from services.common import bodies
from services.common.names import id_of
from services.frontend import domain
from services.frontend.adapters.receiver import Receiver
from services.frontend.adapters.rendering import Renderer, StaticFile
from services.frontend.domain import (
    NotNowError,
    Person,
    Problem,
    ReceiverAwayError,
    RefusedError,
    StatusReport,
)

FOREVER: Final = "private, max-age=31536000, immutable"

MAX_NAME_FORM_BYTES: Final = 64 * 1024
"""Of a form without files."""

MAX_CHOICES: Final = 20
"""Of people who bear one name, so many are shown to choose from."""

Filter = Annotated[str | None, Query(max_length=200)]
Cursor = Annotated[str | None, Query(max_length=1000)]
T = TypeVar("T")


@dataclass(frozen=True)
class Naming:
    """What a form says of who somebody is.

    ``name`` is what was typed, ``who`` a choice among those who bear it; ``another`` is somebody
    else of that name. ``insist`` is for a picture in doubt.
    """

    name: str
    who: str
    another: bool
    insist: bool

    @classmethod
    def of(cls, form: FormData) -> "Naming":
        """Return what the fields ``person``, ``who``, ``another`` and ``insist`` say."""
        name, insist = _text(form, "person"), _text(form, "insist")
        # Who insists does so for whom the doubt was about.
        another = "another" in form or insist == "another"
        chosen = insist if id_of(insist) is not None else _text(form, "who")
        who = name if another else chosen or name
        return cls(name, who, another, bool(insist))

    @property
    def insists(self) -> str:
        """Return what to send for insisting on the same."""
        return "another" if self.another else self.who if id_of(self.who) is not None else "true"


@dataclass(frozen=True)
class Refusal:
    """Why a form was refused, and what a person may do about it.

    ``index`` tells which of a page's forms, ``name`` what was typed there. ``people`` are those who
    bear the name, ``another`` says that somebody else may, ``insist`` what to send to insist.
    """

    message: str
    status: int
    index: int | str = ""
    name: str = ""
    people: tuple[Person, ...] = ()
    another: str = ""
    insist: str = ""


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

    async def refusal(
        self, error: RefusedError | ReceiverAwayError, naming: Naming, index: int | str = ""
    ) -> Refusal:
        """Return why a face or a picture got no name, with the people whom the name may mean."""
        message, status = explain(error)
        people: tuple[Person, ...] = ()
        if status == HTTPStatus.CONFLICT and not naming.another:
            people = await self.bearers(naming.who)
        can_insist = isinstance(error, RefusedError) and error.can_insist
        is_name = id_of(naming.who) is None and not naming.another
        return Refusal(
            message,
            status,
            index,
            naming.name,
            people,
            f"Somebody else called {naming.name}" if people or (can_insist and is_name) else "",
            naming.insists if can_insist else "",
        )

    async def bearers(self, name: str) -> tuple[Person, ...]:
        """Return those who bear a name, if they are several.

        An older receiver knows of no such people, and would return everybody.
        """
        if not name or id_of(name) is not None:
            return ()
        pages = await asyncio.gather(
            *(
                or_none(self._receiver.people(person=name, hidden=hidden, limit=MAX_CHOICES))
                for hidden in (False, True)
            )
        )
        people = tuple(
            person for page in pages if page for person in page.people if person.hidden is not None
        )
        return people if len(people) > 1 else ()

    def refused(self, request: Request, refusal: Refusal) -> Response:
        """Say why a form was refused, and what one may do about it; none of it without script."""
        if not wants_json(request):
            return self.message(refusal.status, refusal.message, refusal.people)
        answer: dict[str, Any] = {"message": refusal.message}
        if refusal.insist:
            answer |= {"can_insist": True, "insist": refusal.insist}
        if refusal.people or refusal.another:
            answer["choices"] = self._renderer.render("choices.html", refusal=refusal)
        return JSONResponse(answer, refusal.status)

    def failure(self, request: Request, error: RefusedError | ReceiverAwayError) -> Response:
        """Say why an action was not done."""
        message, status = explain(error)
        return self.refused(request, Refusal(message, status))

    def message(
        self,
        status: int,
        message: str,
        people: tuple[Person, ...] = (),
        title: str = "That did not work",
    ) -> Response:
        """Return a page with nothing but a message, and people to go to."""
        if status == HTTPStatus.NOT_FOUND:
            title = "Not found"
        html = self._renderer.render("message.html", title=title, message=message, people=people)
        return HTMLResponse(html, status)


async def form_of(request: Request) -> FormData:
    """Return the fields of a form without files."""
    small = bodies.limited(request, MAX_NAME_FORM_BYTES)
    async with small.form(max_files=0, max_fields=6) as form:
        return form


async def named(request: Request) -> str:
    """Return the field ``person`` of a form."""
    return _text(await form_of(request), "person")


def _text(form: FormData, field: str) -> str:
    return str(form.get(field, "")).strip()


def explain(error: RefusedError | ReceiverAwayError) -> tuple[str, int]:
    """Return what is wrong, for people, and the status of an answer that says so."""
    if isinstance(error, RefusedError):
        return error.message, error.status
    if isinstance(error, NotNowError):
        return str(error), HTTPStatus.SERVICE_UNAVAILABLE
    message = domain.describe_problem("receiver", str(error)).message
    return f"{message} Try again in a moment.", HTTPStatus.SERVICE_UNAVAILABLE


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


async def name_face(
    receiver: Receiver, naming: Naming, picture_id: int, index: int
) -> RefusedError | ReceiverAwayError | None:
    """Make a face a known picture of whom a form names; return why it was not done."""
    if not naming.who:
        return RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, "Enter a name.")
    return await error_of(
        receiver.enrol_face(
            naming.who, picture_id, index, insist=naming.insist, another=naming.another
        )
    )
