"""The page of people, and what is done there."""

import asyncio
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from services.common import bodies
from services.common.images import MAX_PICTURE_BYTES
from services.common.names import id_of
from services.frontend.adapters.answers import (
    Answers,
    Cursor,
    Filter,
    Naming,
    done,
    error_of,
    gone,
    or_error,
    problems,
)
from services.frontend.adapters.receiver import Receiver, known_picture_address
from services.frontend.adapters.rendering import person_address, query
from services.frontend.domain import (
    PAGE_SIZE,
    SUGGESTED,
    PeoplePage,
    ReceiverAwayError,
    RefusedError,
)
from services.frontend.service import suggestions_of


class PeoplePages:
    """Routes of people."""

    def __init__(self, receiver: Receiver, answers: Answers, spools: bodies.Spools) -> None:
        self._receiver = receiver
        self._answers = answers
        self._spools = spools

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        get, post = router.get, router.post
        get("/people")(self.people_page)
        get("/fragments/people")(self.people_fragment)
        get("/fragments/names")(self.names_fragment)
        get("/people/{person}/pictures/{picture_id}/thumbnail")(self.known_thumbnail)
        post("/people")(self.add_known_picture)
        post("/people/{person}/delete")(self.delete_person)
        post("/people/{person}/pictures/{picture_id}/delete")(self.delete_known_picture)
        return router

    async def people_page(
        self, name: Filter = None, cursor: Cursor = None, hidden: Filter = None
    ) -> Response:
        """Show known people, by name; with ``hidden`` those who are left out else."""
        return self._answers.page("people.html", await self._people(name, cursor, hidden))

    async def people_fragment(
        self, request: Request, name: Filter = None, cursor: Cursor = None, hidden: Filter = None
    ) -> Response:
        """Return what changes on the page of people."""
        return self._answers.fragment(
            request, "people_live.html", await self._people(name, cursor, hidden)
        )

    async def names_fragment(self, name: Filter = None) -> Response:
        """Return names to choose from that have this in them, as JSON."""
        try:
            page = await self._receiver.people(name=name, limit=SUGGESTED)
        except (RefusedError, ReceiverAwayError):  # one can still type
            return JSONResponse([])
        return JSONResponse(suggestions_of(page).names)

    async def known_thumbnail(
        self, request: Request, person: str, picture_id: int, v: Filter = None
    ) -> Response:
        """Return a known picture."""
        try:
            address = f"{known_picture_address(person, picture_id)}/thumbnail"
        except RefusedError:  # that is no name
            return self._answers.placeholder()
        return await self._answers.small(request, address, v)

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
            return self._answers.failure(request, RefusedError(error.status_code, message))

    async def _add_known_picture(self, request: Request, form: FormData) -> Response:
        naming, file = Naming.of(form), form.get("file")
        if not naming.who:
            return self._answers.failure(request, RefusedError(422, "Enter a name."))
        if not isinstance(file, bodies.Part) or not file.size:
            return self._answers.failure(request, RefusedError(422, "Choose a picture."))
        error = await error_of(
            self._receiver.enrol_picture(
                naming.who,
                file.pieces(),
                file.size,
                insist=naming.insist,
                another=naming.another,
            )
        )
        if error is not None:
            return self._answers.refused(request, await self._answers.refusal(error, naming))
        if id_of(naming.who) is not None:
            return done(request, person_address(naming.who))
        # Where not everybody is shown, the one who is new may be on another page.
        return done(request, query("/people", name=naming.name if "find" in form else None))

    async def delete_person(self, request: Request, person: str) -> Response:
        """Forget a person."""
        return await self._answers.act(
            request, gone(self._receiver.delete_person(person)), "/people"
        )

    async def delete_known_picture(
        self, request: Request, person: str, picture_id: int
    ) -> Response:
        """Forget one known picture."""
        return await self._answers.act(
            request,
            gone(self._receiver.delete_known_picture(person, picture_id)),
            person_address(person),
        )

    async def _people(
        self, name: str | None, cursor: str | None, hidden: str | None
    ) -> dict[str, Any]:
        report, page = await asyncio.gather(
            self._answers.report(counts=False),
            or_error(
                self._receiver.people(
                    name=name or None, hidden=bool(hidden), cursor=cursor, limit=PAGE_SIZE
                )
            ),
        )
        if isinstance(page, RefusedError):  # a name or a cursor that is none
            page = PeoplePage(people=())
        return {
            "page": page if isinstance(page, PeoplePage) else None,
            "problems": problems(report, page),
            "available": isinstance(page, PeoplePage),
            "busy": False,
            "filter": {"name": name, "cursor": cursor, "hidden": hidden},
            "fragment": query("/fragments/people", name=name, cursor=cursor, hidden=hidden),
        }
