"""The pages, the fragments that keep them live, and the actions behind their forms.

Every action is a form that works without JavaScript: it answers with a redirect, or with a page
that says what is wrong. A script that asks for JSON gets the same as JSON.
"""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Query, Request
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from services.common import bodies
from services.common.images import MAX_PICTURE_BYTES, Status
from services.common.names import InvalidNameError, check_name
from services.frontend import domain
from services.frontend.adapters.receiver import (
    Receiver,
    explain_problem,
    known_picture_address,
)
from services.frontend.adapters.rendering import Renderer, StaticFile, query
from services.frontend.domain import (
    NotNowError,
    PeoplePage,
    Picture,
    PicturePage,
    Problem,
    ReceiverAwayError,
    RefusedError,
    StatusReport,
)
from services.frontend.service import Names, suggestions_of

PAGE_SIZE: Final = 24
"""Fills whole rows of 2, 3, 4, 6 and 8 cards; of people it is a screen or two."""

SUGGESTED: Final = 100
"""Names that a page has to choose from; of more people they follow what is typed."""

_MAX_NAME_FORM_BYTES: Final = 64 * 1024
_FOREVER: Final = "private, max-age=31536000, immutable"

T = TypeVar("T")
Filter = Annotated[str | None, Query(max_length=200)]


class Pages:
    """Every route of the frontend but the probes."""

    def __init__(
        self,
        receiver: Receiver,
        renderer: Renderer,
        files: dict[str, StaticFile],
        *,
        spools: bodies.Spools,
        max_upload_bytes: int,
    ) -> None:
        self._receiver = receiver
        self._names = Names(partial(receiver.people, limit=SUGGESTED))
        self._renderer = renderer
        self._files = files
        self._spools = spools
        self._max_upload_bytes = max_upload_bytes

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        get, post = router.get, router.post
        get("/")(self.pictures_page)
        get("/fragments/pictures")(self.pictures_fragment)
        get("/images/{picture_id}")(self.picture_page)
        get("/fragments/images/{picture_id}")(self.picture_fragment)
        get("/people")(self.people_page)
        get("/fragments/people")(self.people_fragment)
        get("/fragments/names")(self.names_fragment)
        get("/images/{picture_id}/thumbnail")(self.thumbnail)
        get("/images/{picture_id}/preview")(self.preview)
        get("/people/{person}/pictures/{picture_id}/thumbnail")(self.known_thumbnail)
        get("/static/{name}")(self.static)
        post("/upload")(self.upload)
        post("/images/{picture_id}/retry")(self.retry)
        post("/images/{picture_id}/recognise")(self.recognise)
        post("/images/{picture_id}/delete")(self.delete)
        post("/images/{picture_id}/faces/{index}/name")(self.name_face)
        post("/images/{picture_id}/faces/{index}/deny")(self.deny)
        post("/images/{picture_id}/faces/{index}/allow")(self.allow)
        post("/people")(self.add_known_picture)
        post("/people/{person}/delete")(self.delete_person)
        post("/people/{person}/rename")(self.rename_person)
        post("/people/{person}/pictures/{picture_id}/delete")(self.delete_known_picture)
        return router

    # Pages and their fragments

    async def pictures_page(
        self, status: Filter = None, person: Filter = None, cursor: Filter = None
    ) -> Response:
        """Show pictures, newest first."""
        return self._page("pictures.html", await self._pictures(status, person, cursor))

    async def pictures_fragment(
        self,
        request: Request,
        status: Filter = None,
        person: Filter = None,
        cursor: Filter = None,
    ) -> Response:
        """Return what changes on the page of pictures."""
        return self._fragment(
            request, "pictures_live.html", await self._pictures(status, person, cursor)
        )

    async def picture_page(self, picture_id: int) -> Response:
        """Show one picture."""
        return await self._picture_page(picture_id)

    async def picture_fragment(self, request: Request, picture_id: int) -> Response:
        """Return what changes on the page of one picture."""
        return self._fragment(request, "picture_live.html", await self._picture(picture_id))

    async def people_page(self, name: Filter = None, cursor: Filter = None) -> Response:
        """Show known people, by name."""
        return self._page("people.html", await self._people(name, cursor))

    async def people_fragment(
        self, request: Request, name: Filter = None, cursor: Filter = None
    ) -> Response:
        """Return what changes on the page of people."""
        return self._fragment(request, "people_live.html", await self._people(name, cursor))

    async def names_fragment(self, name: Filter = None) -> Response:
        """Return names to choose from that have this in them, as JSON."""
        try:
            page = await self._receiver.people(name=name, limit=SUGGESTED)
        except (RefusedError, ReceiverAwayError):  # one can still type
            return JSONResponse([])
        return JSONResponse(suggestions_of(page).names)

    # Pictures and static files

    async def thumbnail(self, request: Request, picture_id: int, v: Filter = None) -> Response:
        """Return a picture for a card."""
        return await self._small(request, f"/images/{picture_id}/thumbnail", v)

    async def preview(self, request: Request, picture_id: int, v: Filter = None) -> Response:
        """Return a picture for its own page."""
        return await self._small(request, f"/images/{picture_id}/preview", v)

    async def known_thumbnail(
        self, request: Request, person: str, picture_id: int, v: Filter = None
    ) -> Response:
        """Return a known picture."""
        try:
            address = f"{known_picture_address(person, picture_id)}/thumbnail"
        except RefusedError:  # that is no name
            return self._placeholder()
        return await self._small(request, address, v)

    async def static(self, name: str, v: Filter = None) -> Response:
        """Return the style sheet, the script or a drawing."""
        file = self._files.get(name)
        if file is None:
            return self._message(HTTPStatus.NOT_FOUND, "There is no such file.")
        return Response(
            file.content,
            media_type=file.media_type,
            headers={"Cache-Control": _FOREVER if v == file.version else "no-cache"},
        )

    # Actions

    async def upload(self, request: Request) -> Response:
        """Pass uploaded pictures on to the receiver, once they are here."""
        async with self._spools.open() as spool:
            await bodies.receive(request, spool, max_bytes=self._max_upload_bytes)
            try:
                accepted = await self._receiver.upload(
                    spool.pieces(),
                    content_type=request.headers.get("content-type", ""),
                    size=spool.size,
                )
            except (RefusedError, ReceiverAwayError) as error:
                return self._failure(request, error)
        if _wants_json(request):
            return JSONResponse({"images": [one.model_dump() for one in accepted]}, 202)
        return RedirectResponse("/", HTTPStatus.SEE_OTHER)

    async def retry(self, request: Request, picture_id: int) -> Response:
        """Send a picture back to waiting."""
        return await self._act(request, self._receiver.retry(picture_id), f"/images/{picture_id}")

    async def recognise(self, request: Request, picture_id: int) -> Response:
        """Have a picture compared with the people known now."""
        action = self._receiver.recognise(picture_id)
        return await self._act(request, action, f"/images/{picture_id}")

    async def delete(self, request: Request, picture_id: int) -> Response:
        """Remove a picture."""
        return await self._act(request, _gone(self._receiver.delete(picture_id)), "/")

    async def name_face(self, request: Request, picture_id: int, index: int) -> Response:
        """Make a face a known picture of the person named in the form."""
        small = bodies.limited(request, _MAX_NAME_FORM_BYTES)
        async with small.form(max_files=0, max_fields=4) as form:
            person, insist = str(form.get("person", "")).strip(), "insist" in form
        refusal = (
            await _error_of(self._receiver.enrol_face(person, picture_id, index, insist=insist))
            if person
            else RefusedError(422, "Enter a name.")
        )
        if refusal is None:
            return _done(request, f"/images/{picture_id}")
        if _wants_json(request):
            return self._failure(request, refusal)
        message, status = _explain(refusal)
        refused = {
            "index": index,
            "name": person,
            "message": message,
            "can_insist": _can_insist(refusal),
        }
        return await self._picture_page(picture_id, status, refused=refused)

    async def deny(self, request: Request, picture_id: int, index: int) -> Response:
        """Say that a face is not the person named in the form."""
        action = self._receiver.deny(await _named(request), picture_id, index)
        return await self._act(request, action, f"/images/{picture_id}")

    async def allow(self, request: Request, picture_id: int, index: int) -> Response:
        """Take back that a face is not the person named in the form."""
        action = self._receiver.allow(await _named(request), picture_id, index)
        return await self._act(request, action, f"/images/{picture_id}")

    async def rename_person(self, request: Request, person: str) -> Response:
        """Give a person the name in the form."""
        name = await _named(request)
        return await self._act(request, self._receiver.rename(person, name), "/people")

    async def add_known_picture(self, request: Request) -> Response:
        """Make an uploaded file a known picture of the person named in the form."""
        try:
            async with bodies.multipart(
                request,
                self._spools,
                max_files=1,
                max_bytes=MAX_PICTURE_BYTES + bodies.MULTIPART_OVERHEAD,
            ) as form:
                return await self._add_known_picture(request, form)
        except HTTPException as error:
            messages = {
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
                    f"The picture is larger than {MAX_PICTURE_BYTES // 2**20} MB."
                ),
                HTTPStatus.UNPROCESSABLE_ENTITY: "Choose one picture.",
            }
            message = messages.get(HTTPStatus(error.status_code))
            if message is None:
                raise
            return self._failure(request, RefusedError(error.status_code, message))

    async def _add_known_picture(self, request: Request, form: FormData) -> Response:
        person, file = str(form.get("person", "")).strip(), form.get("file")
        if not person:
            return self._failure(request, RefusedError(422, "Enter a name."))
        if not isinstance(file, bodies.Part) or not file.size:
            return self._failure(request, RefusedError(422, "Choose a picture."))
        enrolment = self._receiver.enrol_picture(
            person, file.pieces(), file.size, insist="insist" in form
        )
        # Where not everybody is shown, the one who is new may be on another page.
        return await self._act(
            request, enrolment, query("/people", name=person if "find" in form else None)
        )

    async def delete_person(self, request: Request, person: str) -> Response:
        """Forget a person."""
        return await self._act(request, _gone(self._receiver.delete_person(person)), "/people")

    async def delete_known_picture(
        self, request: Request, person: str, picture_id: int
    ) -> Response:
        """Forget one known picture."""
        return await self._act(
            request, _gone(self._receiver.delete_known_picture(person, picture_id)), "/people"
        )

    def not_found(self) -> Response:
        """Return the page for an address that does not exist."""
        return self._message(HTTPStatus.NOT_FOUND, "There is no such page.")

    def refused(self, request: Request, error: HTTPException) -> Response:
        """Say why a request was refused before its action was tried."""
        refusal = RefusedError(error.status_code, explain_problem(error.detail, error.headers))
        response = self._failure(request, refusal)
        response.headers.update(error.headers or {})
        return response

    # What the pages are made of

    async def _pictures(
        self, status: str | None, person: str | None, cursor: str | None
    ) -> dict[str, Any]:
        status = status if status in set(Status) else None
        with suppress(InvalidNameError):  # else the receiver says what is wrong
            person = check_name(person) if person else None  # as names are kept
        report, page, names = await asyncio.gather(
            self._report(person),
            _or_error(
                self._receiver.pictures(
                    status=status, person=person, cursor=cursor, limit=PAGE_SIZE
                )
            ),
            _or_none(self._names.get()),
        )
        pictures: PicturePage | None = None
        if isinstance(page, PicturePage):
            pictures = page
        elif isinstance(page, RefusedError):  # for example the cursor of an older version
            pictures = PicturePage(images=(), next_cursor=None)
        counts = (report.images or {}) if isinstance(report, StatusReport) else {}
        busy = any(counts.get(one) for one in domain.OPEN) or (
            pictures is not None and any(picture.is_open for picture in pictures.images)
        )
        return {
            "page": pictures,
            "names": names,
            "counts": counts,
            "note": report.encoding.note
            if isinstance(report, StatusReport) and report.encoding
            else None,
            "problems": _problems(report, page),
            "available": pictures is not None,
            "busy": busy,
            "filter": {"status": status, "person": person, "cursor": cursor},
            "fragment": query("/fragments/pictures", status=status, person=person, cursor=cursor),
        }

    async def _picture(self, picture_id: int) -> dict[str, Any]:
        report, picture, names = await asyncio.gather(
            self._report(counts=False),
            _or_error(self._receiver.picture(picture_id)),
            _or_none(self._names.get()),
        )
        found = picture if isinstance(picture, Picture) else None
        return {
            "picture": found,
            "names": names,
            "problems": _problems(report, picture),
            "available": found is not None,
            "missing": isinstance(picture, RefusedError),
            "busy": found is not None and found.is_open,
            "refused": None,
            "fragment": f"/fragments/images/{picture_id}",
        }

    async def _picture_page(
        self,
        picture_id: int,
        status: int = HTTPStatus.OK,
        *,
        refused: dict[str, Any] | None = None,
    ) -> Response:
        view = await self._picture(picture_id)
        if view["missing"]:
            return self._message(
                HTTPStatus.NOT_FOUND, "This picture does not exist, or it was deleted."
            )
        return self._page("picture.html", {**view, "refused": refused}, status=status)

    async def _people(self, name: str | None, cursor: str | None) -> dict[str, Any]:
        report, page = await asyncio.gather(
            self._report(counts=False),
            _or_error(self._receiver.people(name=name or None, cursor=cursor, limit=PAGE_SIZE)),
        )
        if isinstance(page, RefusedError):  # a name or a cursor that is none
            page = PeoplePage(people=())
        return {
            "page": page if isinstance(page, PeoplePage) else None,
            "problems": _problems(report, page),
            "available": isinstance(page, PeoplePage),
            "busy": False,
            "filter": {"name": name, "cursor": cursor},
            "fragment": query("/fragments/people", name=name, cursor=cursor),
        }

    async def _report(
        self, person: str | None = None, *, counts: bool = True
    ) -> StatusReport | RefusedError | ReceiverAwayError:
        return await _or_error(self._receiver.status(person, counts=counts))

    # Answers

    def _page(
        self, template: str, view: dict[str, Any], status: int = HTTPStatus.OK, **values: Any
    ) -> Response:
        return HTMLResponse(
            self._renderer.render(template, **view, **values),
            status if view["available"] else HTTPStatus.SERVICE_UNAVAILABLE,
            headers={"Cache-Control": "no-store"},
        )

    def _fragment(self, request: Request, template: str, view: dict[str, Any]) -> Response:
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

    async def _small(self, request: Request, address: str, version: str | None) -> Response:
        """Return what the receiver has at an address.

        With a version in its own address it may be kept, for another picture has another one.
        """
        try:
            content, tag = await self._receiver.small(address, request.headers.get("if-none-match"))
        except ReceiverAwayError:
            return Response(status_code=HTTPStatus.SERVICE_UNAVAILABLE)
        except RefusedError:  # it is no picture, or lost, or an older receiver makes none
            return self._placeholder()
        headers = {"Cache-Control": _FOREVER if version else "no-cache", "ETag": tag}
        if content is None:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(content, media_type="image/jpeg", headers=headers)

    def _placeholder(self) -> Response:
        file = self._files["placeholder.svg"]
        headers = {"Cache-Control": "private, max-age=60"}
        return Response(file.content, media_type=file.media_type, headers=headers)

    async def _act(self, request: Request, action: Awaitable[None], then: str) -> Response:
        error = await _error_of(action)
        return _done(request, then) if error is None else self._failure(request, error)

    def _failure(self, request: Request, error: RefusedError | ReceiverAwayError) -> Response:
        message, status = _explain(error)
        if _wants_json(request):
            doubt = {"can_insist": True} if _can_insist(error) else {}
            return JSONResponse({"message": message, **doubt}, status)
        return self._message(status, message)

    def _message(self, status: int, message: str) -> Response:
        title = "Not found" if status == HTTPStatus.NOT_FOUND else "That did not work"
        return HTMLResponse(
            self._renderer.render("message.html", title=title, message=message), status
        )


async def _named(request: Request) -> str:
    async with bodies.limited(request, _MAX_NAME_FORM_BYTES).form(
        max_files=0, max_fields=4
    ) as form:
        return str(form.get("person", "")).strip()


def _explain(error: RefusedError | ReceiverAwayError) -> tuple[str, int]:
    if isinstance(error, RefusedError):
        return error.message, error.status
    if isinstance(error, NotNowError):
        return str(error), HTTPStatus.SERVICE_UNAVAILABLE
    message = domain.describe_problem("receiver", str(error)).message
    return f"{message} Try again in a moment.", HTTPStatus.SERVICE_UNAVAILABLE


def _can_insist(error: RefusedError | ReceiverAwayError) -> bool:
    return isinstance(error, RefusedError) and error.can_insist


def _problems(*answers: object) -> list[Problem]:
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


def _wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


def _done(request: Request, then: str) -> Response:
    if _wants_json(request):
        return JSONResponse({"then": then})
    return RedirectResponse(then, HTTPStatus.SEE_OTHER)


async def _or_error(call: Awaitable[T]) -> T | RefusedError | ReceiverAwayError:
    try:
        return await call
    except (RefusedError, ReceiverAwayError) as error:
        return error


async def _or_none(call: Awaitable[T]) -> T | None:
    result = await _or_error(call)
    return None if isinstance(result, (RefusedError, ReceiverAwayError)) else result


async def _error_of(action: Awaitable[None]) -> RefusedError | ReceiverAwayError | None:
    return await _or_error(action)


async def _gone(deletion: Awaitable[None]) -> None:
    """Delete what may be gone already: somebody else was faster, and that is all right."""
    try:
        await deletion
    except RefusedError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
