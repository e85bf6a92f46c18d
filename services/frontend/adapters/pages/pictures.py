"""The pages of pictures and of one, the upload, and what is done with pictures and faces."""

import asyncio
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from services.common.image_states import Status
from services.common.person_names import InvalidNameError, check_name, id_of
from services.frontend.adapters.pages.answers import done, wants_json
from services.frontend.adapters.pages.base import Pages
from services.frontend.adapters.pages.forms import Filter, box_of, form_of, text_of, upload_of
from services.frontend.adapters.pages.naming import Naming, NotRefused, bearers, refusal_of
from services.frontend.adapters.pages.rendering import query
from services.frontend.adapters.receiver.connection import gone, or_error, or_none
from services.frontend.domain.errors import NotDoneError, RequestRefusedError
from services.frontend.domain.people import Person
from services.frontend.domain.pictures import OPEN, PicturePage, SubmittedPicture
from services.frontend.domain.status import StatusReport, away_parts


class PicturesPages(Pages):
    """Routes of pictures."""

    def _add_routes(self) -> None:
        get, post = self.router.get, self._post
        get("/")(self.pictures_page)
        self._add_fragment("/pictures", "pictures_live.html", self._pictures)
        self.router.post("/upload")(self.upload)  # a form with files
        get("/images/{picture_id}")(self.picture_page)
        self._add_fragment("/images/{picture_id}", "picture_live.html", self._picture)
        post("/images/{picture_id}/retry", self.retry)
        post("/images/{picture_id}/recognise", self.recognise)
        post("/images/{picture_id}/delete", self.delete)
        post("/images/{picture_id}/faces", self.draw)
        post("/images/{picture_id}/faces/{index}/name", self.name_face)
        post("/images/{picture_id}/faces/{index}/deny", self.deny)
        post("/images/{picture_id}/faces/{index}/allow", self.allow)
        post("/images/{picture_id}/faces/{index}/strike-out", self.strike_out)
        post("/images/{picture_id}/faces/{index}/restore", self.restore)

    async def pictures_page(
        self, status: Filter = None, person: Filter = None, cursor: Filter = None
    ) -> Response:
        """Show pictures, newest first."""
        return await self._answers.page(
            "pictures.html", await self._pictures(status, person, cursor)
        )

    async def picture_page(self, picture_id: int, refusal: NotRefused = None) -> Response:
        """Show one picture."""
        view = await self._picture(picture_id)
        if view["missing"]:
            return self._answers.message(
                HTTPStatus.NOT_FOUND, "This picture does not exist, or it was deleted."
            )
        return await self._answers.page("picture.html", view, refusal)

    async def upload(self, request: Request) -> Response:
        """Pass uploaded pictures on to the receiver, once they are here."""
        async with self._spools.open() as spool:
            await upload_of(request, spool, max_bytes=self._max_upload_bytes)
            accepted = await self._receiver.pictures.upload(
                spool.pieces(),
                content_type=request.headers.get("content-type", ""),
                size=spool.size,
            )
        if wants_json(request):
            return JSONResponse(accepted.model_dump(), HTTPStatus.ACCEPTED)
        return RedirectResponse("/", HTTPStatus.SEE_OTHER)

    async def retry(self, request: Request, picture_id: int) -> Response:
        """Send a picture back to waiting."""
        await self._receiver.pictures.retry(picture_id)
        return done(request, f"/images/{picture_id}")

    async def recognise(self, request: Request, picture_id: int) -> Response:
        """Have a picture compared with the people known now."""
        await self._receiver.pictures.recognise(picture_id)
        return done(request, f"/images/{picture_id}")

    async def delete(self, request: Request, picture_id: int) -> Response:
        """Remove a picture."""
        await gone(self._receiver.pictures.delete(picture_id))
        return done(request, "/")

    async def draw(self, request: Request, picture_id: int) -> Response:
        """Add a face in the box that the form's numbers say, with the name in it, if any."""
        form = await form_of(request)
        naming = Naming.of(form)
        try:
            box = box_of(form)
            await self._receiver.faces.draw(picture_id, box, naming.who, another=naming.another)
        except NotDoneError as error:
            refusal = await refusal_of(error, naming, self._receiver.people)
            return self._answers.refused(request, refusal)
        return done(request, f"/images/{picture_id}")

    async def name_face(self, request: Request, picture_id: int, index: int) -> Response:
        """Make a face a known picture of the person named in the form."""
        naming = Naming.of(await form_of(request))
        try:
            await naming.enrol(self._receiver.faces, picture_id, index)
        except NotDoneError as error:
            refusal = await refusal_of(error, naming, self._receiver.people, index)
            if wants_json(request):
                return self._answers.refused(request, refusal)
            return await self.picture_page(picture_id, refusal)
        return done(request, f"/images/{picture_id}")

    async def deny(self, request: Request, picture_id: int, index: int) -> Response:
        """Say that a face is not the person named in the form."""
        who = text_of(await form_of(request), "person")
        await self._receiver.faces.deny(who, picture_id, index)
        return done(request, f"/images/{picture_id}")

    async def allow(self, request: Request, picture_id: int, index: int) -> Response:
        """Take back that a face is not the person named in the form."""
        who = text_of(await form_of(request), "person")
        await self._receiver.faces.allow(who, picture_id, index)
        return done(request, f"/images/{picture_id}")

    async def strike_out(self, request: Request, picture_id: int, index: int) -> Response:
        """Say that a face is none."""
        await gone(self._receiver.faces.strike_out(picture_id, index))
        return done(request, f"/images/{picture_id}")

    async def restore(self, request: Request, picture_id: int, index: int) -> Response:
        """Take back that a face is none."""
        await self._receiver.faces.restore(picture_id, index)
        return done(request, f"/images/{picture_id}")

    # What the pages are made of

    async def _pictures(
        self, status: Filter = None, person: Filter = None, cursor: Filter = None
    ) -> dict[str, Any]:
        status = status if status in set(Status) else None
        by_id = person is not None and id_of(person) is not None
        with suppress(InvalidNameError):  # else the receiver says what is wrong
            person = check_name(person) if person and not by_id else person or None
        report, page, names, chosen = await asyncio.gather(
            or_error(self._receiver.status(person)),
            or_error(self._receiver.pictures.page(status=status, person=person, cursor=cursor)),
            or_none(self._names.get()),
            self._chosen(person if by_id else None),
        )
        namesakes: tuple[Person, ...] = ()
        if isinstance(page, RequestRefusedError):  # for example the cursor of an older version
            namesakes = await bearers(person or "", self._receiver.people)
            page = PicturePage(images=(), next_cursor=None)
        pictures = page if isinstance(page, PicturePage) else None
        counts, note = (
            (report.images or {}, report.note) if isinstance(report, StatusReport) else ({}, None)
        )
        return {
            "page": pictures,
            "names": names,
            "counts": counts,
            "note": note,
            "problems": away_parts(report, page),
            "available": pictures is not None,
            "busy": any(counts.get(state) for state in OPEN)
            or (pictures is not None and any(picture.is_open for picture in pictures.images)),
            "bearers": namesakes,
            "filter": {
                "status": status,
                "person": person,
                "name": chosen.name if chosen else person,
                "cursor": cursor,
            },
            "fragment": query("/fragments/pictures", status=status, person=person, cursor=cursor),
        }

    async def _chosen(self, who: str | None) -> Person | None:
        return await or_none(self._receiver.people.get(who)) if who else None

    async def _picture(self, picture_id: int) -> dict[str, Any]:
        report, picture, names = await asyncio.gather(
            or_error(self._receiver.status(counts=False)),
            or_error(self._receiver.pictures.get(picture_id)),
            or_none(self._names.get()),
        )
        found = picture if isinstance(picture, SubmittedPicture) else None
        return {
            "picture": found,
            "names": names,
            "problems": away_parts(report, picture),
            "available": found is not None,
            "busy": found is not None and found.is_open,
            "missing": isinstance(picture, RequestRefusedError),
            "fragment": f"/fragments/images/{picture_id}",
        }
