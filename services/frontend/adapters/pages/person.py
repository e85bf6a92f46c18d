"""The page of one person, and what is done there: who it is, what is theirs, and what goes."""

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from services.common.names import id_of
from services.frontend.adapters.pages.answers import done, wants_json
from services.frontend.adapters.pages.base import Pages
from services.frontend.adapters.pages.forms import Cursor, Filter, form_of
from services.frontend.adapters.pages.naming import Naming, Refusal, bearers, refusal_of
from services.frontend.adapters.pages.outcomes import or_error, or_none
from services.frontend.adapters.pages.rendering import person_address, query
from services.frontend.domain.errors import NotDoneError, RequestRefusedError
from services.frontend.domain.people import PEOPLE_ON_A_PAGE, PeoplePage, Person
from services.frontend.domain.pictures import PICTURES_ON_A_PAGE, PicturePage
from services.frontend.domain.status import StatusReport, away_parts

_KNOWN_SHOWN: Final = 23
"""Known pictures on a person's page, unless all are asked for: with one more to add, whole rows."""

_GONE: Final = "There is nobody like that, or they were forgotten."


class PersonPages(Pages):
    """Routes of one person."""

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        get, post = router.get, router.post
        get("/people/{who}")(self.person_page)
        get("/fragments/people/{who}")(self.person_fragment)
        get("/people/{who}/merge")(self.merge_page)
        get("/people/{who}/erase")(self.erase_page)
        get("/people/{who}/export")(self.export)
        post("/people/{who}/rename")(self.rename)
        post("/people/{who}/hide")(self.hide)
        post("/people/{who}/show")(self.show)
        post("/people/{who}/faces/{picture_id}/{index}/stand")(self.set_face)
        post("/people/{who}/faces/{picture_id}/{index}/name")(self.move_face)
        post("/people/{who}/faces/{picture_id}/{index}/deny")(self.deny_face)
        post("/people/{who}/merge")(self.merge)
        post("/people/{who}/merges/{merge_id}/undo")(self.take_back_merge)
        post("/people/{who}/erase")(self.erase)
        return router

    # Pages and the fragment

    async def person_page(self, who: str, cursor: Cursor = None, known: Filter = None) -> Response:
        """Show one person: all pictures, newest first."""
        return await self._page(who, cursor, known)

    async def person_fragment(
        self, request: Request, who: str, cursor: Cursor = None, known: Filter = None
    ) -> Response:
        """Return what changes on a person's page."""
        return self._answers.fragment(
            request, "person_live.html", await self._view(who, cursor, known)
        )

    async def merge_page(self, who: str, name: Filter = None, cursor: Cursor = None) -> Response:
        """Show whom a person may be one with."""
        return await self._merge_page(who, name, cursor)

    async def erase_page(self, who: str) -> Response:
        """Say what goes when a person is forgotten for good."""
        return await self._erase_page(who)

    async def export(self, who: str) -> Response:
        """Pass on all that is kept of a person, as a file."""
        pieces = self._receiver.people.export(who)
        first = await anext(pieces, b"")  # raises what is wrong before the answer begins

        async def whole() -> AsyncIterator[bytes]:
            yield first
            async for piece in pieces:
                yield piece

        person_id = id_of(who)
        name = "person.json" if person_id is None else f"person-{person_id}.json"
        return StreamingResponse(
            whole(),
            media_type="application/json",
            headers={
                "Content-Disposition": f'attachment; filename="{name}"',
                "Cache-Control": "no-store",
            },
        )

    # Actions

    async def rename(self, request: Request, who: str) -> Response:
        """Give a person the name in the form."""
        naming = Naming.of(await form_of(request))
        try:
            await self._receiver.people.rename(who, naming.name, another=naming.another)
        except NotDoneError as error:
            taken = error.status == HTTPStatus.CONFLICT and not naming.another
            another = f"Call both {naming.name}" if taken else ""
            refusal = Refusal(error.message, error.status, "rename", naming.name, another=another)
            return await self._refused(request, who, refusal)
        return done(request, person_address(who if id_of(who) is not None else naming.name))

    async def hide(self, request: Request, who: str) -> Response:
        """Leave a person out where people are listed."""
        await self._receiver.people.hide(who, hidden=True)
        return done(request, person_address(who))

    async def show(self, request: Request, who: str) -> Response:
        """List a person again."""
        await self._receiver.people.hide(who, hidden=False)
        return done(request, person_address(who))

    async def set_face(self, request: Request, who: str, picture_id: int, index: int) -> Response:
        """Let a face stand for a person."""
        await self._receiver.people.set_face(who, picture_id, index)
        return done(request, person_address(who))

    async def move_face(self, request: Request, who: str, picture_id: int, index: int) -> Response:
        """Make a face that was a person's a known picture of the one named in the form."""
        naming = Naming.of(await form_of(request))
        try:
            await naming.enrol(self._receiver.faces, picture_id, index)
        except NotDoneError as error:
            form = f"{picture_id}-{index}"
            refusal = await refusal_of(error, naming, self._receiver.people, form)
            return await self._refused(request, who, refusal)
        return done(request, person_address(who))

    async def deny_face(self, request: Request, who: str, picture_id: int, index: int) -> Response:
        """Say that a face is not this person, whoever said so before."""
        await self._receiver.faces.deny(who, picture_id, index, insist=True)
        return done(request, person_address(who))

    async def merge(self, request: Request, who: str) -> Response:
        """Make all that is the chosen one's this person's."""
        naming = Naming.of(await form_of(request))
        try:
            await self._receiver.people.merge(who, naming.who)
        except NotDoneError as error:
            refusal = Refusal(error.message, error.status, naming.who)
            if wants_json(request):
                return self._answers.refused(request, refusal)
            return await self._merge_page(who, None, None, refusal)
        return done(request, person_address(who))

    async def take_back_merge(self, request: Request, who: str, merge_id: int) -> Response:
        """Tell somebody apart again."""
        await self._receiver.people.take_back_merge(who, merge_id)
        return done(request, person_address(who))

    async def erase(self, request: Request, who: str) -> Response:
        """Forget a person for good, once somebody has said that this is meant."""
        form = await form_of(request)
        try:
            if "sure" not in form:
                raise RequestRefusedError("Tick the box that says that you mean it.")
            erased = await self._receiver.people.erase(who, pictures="pictures" in form)
        except NotDoneError as error:
            return await self._erase_page(who, Refusal(error.message, error.status))
        return self._answers.message(HTTPStatus.OK, erased.summary, title="Forgotten for good")

    # What the pages are made of

    async def _page(
        self,
        who: str,
        cursor: str | None = None,
        known: str | None = None,
        refusal: Refusal | None = None,
    ) -> Response:
        view = await self._view(who, cursor, known)
        if view["missing"]:
            return await self._missing(who, view["missing"])
        return self._answers.page("person.html", view, refusal)

    async def _refused(self, request: Request, who: str, refusal: Refusal) -> Response:
        if wants_json(request):
            return self._answers.refused(request, refusal)
        return await self._page(who, refusal=refusal)

    async def _missing(self, who: str, error: RequestRefusedError) -> Response:
        if error.status == HTTPStatus.NOT_FOUND:
            return self._answers.message(HTTPStatus.NOT_FOUND, _GONE)
        namesakes = await bearers(who, self._receiver.people)
        return self._answers.message(error.status, error.message, namesakes)

    async def _view(self, who: str, cursor: str | None, known: str | None) -> dict[str, Any]:
        report, person, page, names = await asyncio.gather(
            or_error(self._receiver.status(who)),
            or_error(self._receiver.people.get(who)),
            or_error(
                self._receiver.pictures.page(
                    status=None, person=who, cursor=cursor, limit=PICTURES_ON_A_PAGE
                )
            ),
            or_none(self._names.get()),
        )
        if isinstance(page, RequestRefusedError):  # for example the cursor of an older version
            page = PicturePage(images=(), next_cursor=None)
        found = person if isinstance(person, Person) else None
        return {
            "person": found,
            "page": page if isinstance(page, PicturePage) else None,
            "total": _total(report),
            "names": names,
            "shown": None if known == "all" else _KNOWN_SHOWN,
            "problems": away_parts(report, person, page),
            "available": found is not None and isinstance(page, PicturePage),
            "missing": person if isinstance(person, RequestRefusedError) else None,
            "filter": {"cursor": cursor, "known": known},
            "fragment": query(
                # By what stays when the name changes.
                f"/fragments{person_address(found.who if found else who)}",
                cursor=cursor,
                known=known,
            ),
        }

    async def _merge_page(
        self, who: str, name: str | None, cursor: str | None, refusal: Refusal | None = None
    ) -> Response:
        person, page, names = await asyncio.gather(
            or_error(self._receiver.people.get(who)),
            or_error(self._receiver.people.page(name=name, cursor=cursor, limit=PEOPLE_ON_A_PAGE)),
            or_none(self._names.get()),
        )
        if isinstance(person, RequestRefusedError):
            return await self._missing(who, person)
        if isinstance(page, RequestRefusedError):  # a name or a cursor that is none
            page = PeoplePage(people=())
        view = {
            "person": person,
            "page": page,
            "names": names,
            "filter": {"name": name, "cursor": cursor},
            "problems": away_parts(person, page),
            "available": isinstance(person, Person) and isinstance(page, PeoplePage),
        }
        return self._answers.page("person_merge.html", view, refusal)

    async def _erase_page(self, who: str, refusal: Refusal | None = None) -> Response:
        report, person = await asyncio.gather(
            or_error(self._receiver.status(who)), or_error(self._receiver.people.get(who))
        )
        if isinstance(person, RequestRefusedError):
            return await self._missing(who, person)
        view = {
            "person": person,
            "total": _total(report),
            "problems": away_parts(report, person),
            "available": isinstance(person, Person),
        }
        return self._answers.page("person_erase.html", view, refusal)


def _total(report: object) -> int | None:
    """Return how many pictures a report counts, if it does."""
    counts = report.images if isinstance(report, StatusReport) else None
    return None if counts is None else sum(counts.values())
