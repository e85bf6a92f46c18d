"""The page of people, and what is done there."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from services.common.names import id_of
from services.frontend.adapters.pages.answers import done
from services.frontend.adapters.pages.base import Pages
from services.frontend.adapters.pages.forms import Cursor, Filter, picture_form, picture_of
from services.frontend.adapters.pages.naming import Naming, refusal_of
from services.frontend.adapters.pages.outcomes import gone, or_error, or_none
from services.frontend.adapters.pages.rendering import person_address, query
from services.frontend.domain.errors import NotDoneError, RequestRefusedError
from services.frontend.domain.people import PEOPLE_ON_A_PAGE, SUGGESTED, PeoplePage, choices_of
from services.frontend.domain.status import away_parts


class PeoplePages(Pages):
    """Routes of people."""

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        get, post = router.get, router.post
        get("/people")(self.people_page)
        get("/fragments/people")(self.people_fragment)
        get("/fragments/names")(self.names_fragment)
        post("/people")(self.add_known_picture)
        post("/people/{who}/delete")(self.delete_person)
        post("/people/{who}/pictures/{picture_id}/delete")(self.delete_known_picture)
        return router

    async def people_page(
        self, name: Filter = None, cursor: Cursor = None, hidden: Filter = None
    ) -> Response:
        """Show known people, by name; with ``hidden`` those who are left out else."""
        return self._answers.page("people.html", await self._view(name, cursor, hidden))

    async def people_fragment(
        self, request: Request, name: Filter = None, cursor: Cursor = None, hidden: Filter = None
    ) -> Response:
        """Return what changes on the page of people."""
        return self._answers.fragment(
            request, "people_live.html", await self._view(name, cursor, hidden)
        )

    async def names_fragment(self, name: Filter = None) -> Response:
        """Return names to choose from that have this in them, as JSON."""
        page = await or_none(self._receiver.people.page(name=name, limit=SUGGESTED))
        return JSONResponse(choices_of(page).names if page else [])  # one can still type

    async def add_known_picture(self, request: Request) -> Response:
        """Make an uploaded file a known picture of the person named in the form."""
        async with picture_form(request, self._spools) as form:
            naming = Naming.of(form)
            try:
                await self._receiver.people.enrol_picture(
                    naming.somebody,
                    *picture_of(form),
                    insist=naming.insist,
                    another=naming.another,
                )
            except NotDoneError as error:
                refusal = await refusal_of(error, naming, self._receiver.people)
                return self._answers.refused(request, refusal)
        if id_of(naming.who) is not None:
            return done(request, person_address(naming.who))
        # Where not everybody is shown, the one who is new may be on another page.
        return done(request, query("/people", name=naming.name if "find" in form else None))

    async def delete_person(self, request: Request, who: str) -> Response:
        """Forget a person."""
        await gone(self._receiver.people.delete(who))
        return done(request, "/people")

    async def delete_known_picture(self, request: Request, who: str, picture_id: int) -> Response:
        """Forget one known picture."""
        await gone(self._receiver.people.delete_known_picture(who, picture_id))
        return done(request, person_address(who))

    async def _view(
        self, name: str | None, cursor: str | None, hidden: str | None
    ) -> dict[str, Any]:
        report, page = await asyncio.gather(
            or_error(self._receiver.status(counts=False)),
            or_error(
                self._receiver.people.page(
                    name=name, hidden=bool(hidden), cursor=cursor, limit=PEOPLE_ON_A_PAGE
                )
            ),
        )
        if isinstance(page, RequestRefusedError):  # a name or a cursor that is none
            page = PeoplePage(people=())
        return {
            "page": page if isinstance(page, PeoplePage) else None,
            "problems": away_parts(report, page),
            "available": isinstance(page, PeoplePage),
            "filter": {"name": name, "cursor": cursor, "hidden": hidden},
            "fragment": query("/fragments/people", name=name, cursor=cursor, hidden=hidden),
        }
