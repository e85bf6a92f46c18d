"""The page of pictures, and the upload."""

import asyncio
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from services.common import bodies
from services.common.images import Status
from services.common.names import InvalidNameError, check_name, id_of
from services.frontend.adapters.pages.answers import wants_json
from services.frontend.adapters.pages.base import Pages
from services.frontend.adapters.pages.forms import Filter
from services.frontend.adapters.pages.naming import bearers
from services.frontend.adapters.pages.outcomes import or_error, or_none
from services.frontend.adapters.pages.rendering import query
from services.frontend.domain.errors import RequestRefusedError
from services.frontend.domain.people import Person
from services.frontend.domain.pictures import OPEN, PICTURES_ON_A_PAGE, PicturePage
from services.frontend.domain.status import StatusReport, away_parts


class PicturesPages(Pages):
    """Routes of pictures."""

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        get, post = router.get, router.post
        get("/")(self.pictures_page)
        get("/fragments/pictures")(self.pictures_fragment)
        post("/upload")(self.upload)
        return router

    async def pictures_page(
        self, status: Filter = None, person: Filter = None, cursor: Filter = None
    ) -> Response:
        """Show pictures, newest first."""
        return self._answers.page("pictures.html", await self._view(status, person, cursor))

    async def pictures_fragment(
        self,
        request: Request,
        status: Filter = None,
        person: Filter = None,
        cursor: Filter = None,
    ) -> Response:
        """Return what changes on the page of pictures."""
        return self._answers.fragment(
            request, "pictures_live.html", await self._view(status, person, cursor)
        )

    async def upload(self, request: Request) -> Response:
        """Pass uploaded pictures on to the receiver, once they are here."""
        async with self._spools.open() as spool:
            await bodies.receive(request, spool, max_bytes=self._max_upload_bytes)
            accepted = await self._receiver.pictures.upload(
                spool.pieces(),
                content_type=request.headers.get("content-type", ""),
                size=spool.size,
            )
        if wants_json(request):
            return JSONResponse(accepted.model_dump(), HTTPStatus.ACCEPTED)
        return RedirectResponse("/", HTTPStatus.SEE_OTHER)

    async def _view(
        self, status: str | None, person: str | None, cursor: str | None
    ) -> dict[str, Any]:
        status = status if status in set(Status) else None
        by_id = person is not None and id_of(person) is not None
        with suppress(InvalidNameError):  # else the receiver says what is wrong
            person = check_name(person) if person and not by_id else person or None
        report, page, names, chosen = await asyncio.gather(
            or_error(self._receiver.status(person)),
            or_error(
                self._receiver.pictures.page(
                    status=status, person=person, cursor=cursor, limit=PICTURES_ON_A_PAGE
                )
            ),
            or_none(self._names.get()),
            self._chosen(person if by_id else None),
        )
        namesakes: tuple[Person, ...] = ()
        if isinstance(page, RequestRefusedError):  # for example the cursor of an older version
            namesakes = await bearers(person or "", self._receiver.people)
            page = PicturePage(images=(), next_cursor=None)
        pictures = page if isinstance(page, PicturePage) else None
        counts, encoding = (
            (report.images or {}, report.encoding)
            if isinstance(report, StatusReport)
            else ({}, None)
        )
        return {
            "page": pictures,
            "names": names,
            "counts": counts,
            "note": encoding.note if encoding else None,
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
