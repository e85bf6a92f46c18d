"""The page of one picture, and what is done there: with it, and with its faces."""

import asyncio
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from services.frontend.adapters.pages.answers import done, wants_json
from services.frontend.adapters.pages.base import Pages
from services.frontend.adapters.pages.forms import box_of, form_of, text_of
from services.frontend.adapters.pages.naming import Naming, Refusal, refusal_of
from services.frontend.adapters.pages.outcomes import gone, or_error, or_none
from services.frontend.domain.errors import NotDoneError, RequestRefusedError
from services.frontend.domain.pictures import SubmittedPicture
from services.frontend.domain.status import away_parts


class PicturePages(Pages):
    """Routes of one picture."""

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        get, post = router.get, router.post
        get("/images/{picture_id}")(self.picture_page)
        get("/fragments/images/{picture_id}")(self.picture_fragment)
        post("/images/{picture_id}/retry")(self.retry)
        post("/images/{picture_id}/recognise")(self.recognise)
        post("/images/{picture_id}/delete")(self.delete)
        post("/images/{picture_id}/faces")(self.draw)
        post("/images/{picture_id}/faces/{index}/name")(self.name_face)
        post("/images/{picture_id}/faces/{index}/deny")(self.deny)
        post("/images/{picture_id}/faces/{index}/allow")(self.allow)
        post("/images/{picture_id}/faces/{index}/strike-out")(self.strike_out)
        post("/images/{picture_id}/faces/{index}/restore")(self.restore)
        return router

    # The page and its fragment

    async def picture_page(self, picture_id: int) -> Response:
        """Show one picture."""
        return await self._page(picture_id)

    async def picture_fragment(self, request: Request, picture_id: int) -> Response:
        """Return what changes on the page of one picture."""
        return self._answers.fragment(request, "picture_live.html", await self._view(picture_id))

    # Actions

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
            return await self._page(picture_id, refusal)
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

    # What the page is made of

    async def _page(self, picture_id: int, refusal: Refusal | None = None) -> Response:
        view = await self._view(picture_id)
        if view["missing"]:
            return self._answers.message(
                HTTPStatus.NOT_FOUND, "This picture does not exist, or it was deleted."
            )
        return self._answers.page("picture.html", view, refusal)

    async def _view(self, picture_id: int) -> dict[str, Any]:
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
