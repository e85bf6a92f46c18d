"""The pages of pictures, the fragments that keep them live, and the actions behind their forms.

Every action is a form that works without JavaScript: it answers with a redirect, or with a page
that says what is wrong. A script that asks for JSON gets the same as JSON.
"""

import asyncio
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response

from services.common import bodies
from services.common.images import Status
from services.common.names import InvalidNameError, check_name, id_of
from services.frontend import domain
from services.frontend.adapters.answers import (
    FOREVER,
    Answers,
    Filter,
    Naming,
    Refusal,
    done,
    form_of,
    gone,
    name_face,
    named,
    or_error,
    or_none,
    problems,
    wants_json,
)
from services.frontend.adapters.receiver import Receiver, explain_problem
from services.frontend.adapters.rendering import StaticFile, query
from services.frontend.domain import (
    PAGE_SIZE,
    Person,
    Picture,
    PicturePage,
    ReceiverAwayError,
    RefusedError,
    StatusReport,
)
from services.frontend.service import Names


class Pages:
    """Routes of pictures, and of files that all pages have."""

    def __init__(
        self,
        receiver: Receiver,
        answers: Answers,
        names: Names,
        files: dict[str, StaticFile],
        *,
        spools: bodies.Spools,
        max_upload_bytes: int,
    ) -> None:
        self._receiver = receiver
        self._names = names
        self._answers = answers
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
        get("/images/{picture_id}/thumbnail")(self.thumbnail)
        get("/images/{picture_id}/preview")(self.preview)
        get("/images/{picture_id}/faces/{index}/thumbnail")(self.face_thumbnail)
        get("/static/{name}")(self.static)
        post("/upload")(self.upload)
        post("/images/{picture_id}/retry")(self.retry)
        post("/images/{picture_id}/recognise")(self.recognise)
        post("/images/{picture_id}/delete")(self.delete)
        post("/images/{picture_id}/faces/{index}/name")(self.name_face)
        post("/images/{picture_id}/faces/{index}/deny")(self.deny)
        post("/images/{picture_id}/faces/{index}/allow")(self.allow)
        return router

    # Pages and their fragments

    async def pictures_page(
        self, status: Filter = None, person: Filter = None, cursor: Filter = None
    ) -> Response:
        """Show pictures, newest first."""
        return self._answers.page("pictures.html", await self._pictures(status, person, cursor))

    async def pictures_fragment(
        self,
        request: Request,
        status: Filter = None,
        person: Filter = None,
        cursor: Filter = None,
    ) -> Response:
        """Return what changes on the page of pictures."""
        return self._answers.fragment(
            request, "pictures_live.html", await self._pictures(status, person, cursor)
        )

    async def picture_page(self, picture_id: int) -> Response:
        """Show one picture."""
        return await self._picture_page(picture_id)

    async def picture_fragment(self, request: Request, picture_id: int) -> Response:
        """Return what changes on the page of one picture."""
        return self._answers.fragment(request, "picture_live.html", await self._picture(picture_id))

    # Pictures and static files

    async def thumbnail(self, request: Request, picture_id: int, v: Filter = None) -> Response:
        """Return a picture for a card."""
        return await self._answers.small(request, f"/images/{picture_id}/thumbnail", v)

    async def preview(self, request: Request, picture_id: int, v: Filter = None) -> Response:
        """Return a picture for its own page."""
        return await self._answers.small(request, f"/images/{picture_id}/preview", v)

    async def face_thumbnail(self, request: Request, picture_id: int, index: int) -> Response:
        """Return a face of a picture for a list."""
        return await self._answers.small(
            request, f"/images/{picture_id}/faces/{index}/thumbnail", None
        )

    async def static(self, name: str, v: Filter = None) -> Response:
        """Return the style sheet, the script or a drawing."""
        file = self._files.get(name)
        if file is None:
            return self._answers.message(HTTPStatus.NOT_FOUND, "There is no such file.")
        return Response(
            file.content,
            media_type=file.media_type,
            headers={"Cache-Control": FOREVER if v == file.version else "no-cache"},
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
                return self._answers.failure(request, error)
        if wants_json(request):
            return JSONResponse({"images": [one.model_dump() for one in accepted]}, 202)
        return RedirectResponse("/", HTTPStatus.SEE_OTHER)

    async def retry(self, request: Request, picture_id: int) -> Response:
        """Send a picture back to waiting."""
        return await self._answers.act(
            request, self._receiver.retry(picture_id), f"/images/{picture_id}"
        )

    async def recognise(self, request: Request, picture_id: int) -> Response:
        """Have a picture compared with the people known now."""
        action = self._receiver.recognise(picture_id)
        return await self._answers.act(request, action, f"/images/{picture_id}")

    async def delete(self, request: Request, picture_id: int) -> Response:
        """Remove a picture."""
        return await self._answers.act(request, gone(self._receiver.delete(picture_id)), "/")

    async def name_face(self, request: Request, picture_id: int, index: int) -> Response:
        """Make a face a known picture of the person named in the form."""
        naming = Naming.of(await form_of(request))
        error = await name_face(self._receiver, naming, picture_id, index)
        if error is None:
            return done(request, f"/images/{picture_id}")
        refusal = await self._answers.refusal(error, naming, index)
        if wants_json(request):
            return self._answers.refused(request, refusal)
        return await self._picture_page(picture_id, refusal)

    async def deny(self, request: Request, picture_id: int, index: int) -> Response:
        """Say that a face is not the person named in the form."""
        action = self._receiver.deny(await named(request), picture_id, index)
        return await self._answers.act(request, action, f"/images/{picture_id}")

    async def allow(self, request: Request, picture_id: int, index: int) -> Response:
        """Take back that a face is not the person named in the form."""
        action = self._receiver.allow(await named(request), picture_id, index)
        return await self._answers.act(request, action, f"/images/{picture_id}")

    def not_found(self) -> Response:
        """Return the page for an address that does not exist."""
        return self._answers.message(HTTPStatus.NOT_FOUND, "There is no such page.")

    def refused(self, request: Request, error: HTTPException) -> Response:
        """Say why a request was refused before its action was tried."""
        refusal = RefusedError(error.status_code, explain_problem(error.detail, error.headers))
        response = self._answers.failure(request, refusal)
        response.headers.update(error.headers or {})
        return response

    # What the pages are made of

    async def _pictures(
        self, status: str | None, person: str | None, cursor: str | None
    ) -> dict[str, Any]:
        status = status if status in set(Status) else None
        by_id = person is not None and id_of(person) is not None
        with suppress(InvalidNameError):  # else the receiver says what is wrong
            person = check_name(person) if person and not by_id else person or None
        report, page, names, chosen = await asyncio.gather(
            self._answers.report(person),
            or_error(
                self._receiver.pictures(
                    status=status, person=person, cursor=cursor, limit=PAGE_SIZE
                )
            ),
            or_none(self._names.get()),
            self._chosen(person if by_id else None),
        )
        pictures: PicturePage | None = None
        bearers: tuple[Person, ...] = ()
        if isinstance(page, PicturePage):
            pictures = page
        elif isinstance(page, RefusedError):  # for example the cursor of an older version
            pictures = PicturePage(images=(), next_cursor=None)
            bearers = await self._answers.bearers(person or "")
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
            "problems": problems(report, page),
            "available": pictures is not None,
            "busy": busy,
            "bearers": bearers,
            "filter": {
                "status": status,
                "person": person,
                "name": chosen.name if chosen else person,
                "cursor": cursor,
            },
            "fragment": query("/fragments/pictures", status=status, person=person, cursor=cursor),
        }

    async def _chosen(self, who: str | None) -> Person | None:
        return await or_none(self._receiver.person(who)) if who else None

    async def _picture(self, picture_id: int) -> dict[str, Any]:
        report, picture, names = await asyncio.gather(
            self._answers.report(counts=False),
            or_error(self._receiver.picture(picture_id)),
            or_none(self._names.get()),
        )
        found = picture if isinstance(picture, Picture) else None
        return {
            "picture": found,
            "names": names,
            "problems": problems(report, picture),
            "available": found is not None,
            "missing": isinstance(picture, RefusedError),
            "busy": found is not None and found.is_open,
            "refused": None,
            "fragment": f"/fragments/images/{picture_id}",
        }

    async def _picture_page(self, picture_id: int, refused: Refusal | None = None) -> Response:
        view = await self._picture(picture_id)
        if view["missing"]:
            return self._answers.message(
                HTTPStatus.NOT_FOUND, "This picture does not exist, or it was deleted."
            )
        status = refused.status if refused else HTTPStatus.OK
        return self._answers.page("picture.html", {**view, "refused": refused}, status=status)
