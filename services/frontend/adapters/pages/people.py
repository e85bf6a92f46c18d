"""The pages of people and of one: who it is, what is theirs, and what goes."""

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from services.common.person_names import id_of
from services.frontend.adapters.pages.answers import done, wants_json
from services.frontend.adapters.pages.base import Pages
from services.frontend.adapters.pages.forms import Cursor, Filter, form_of, picture_form, picture_of
from services.frontend.adapters.pages.naming import Naming, NotRefused, Refusal, bearers, refusal_of
from services.frontend.adapters.pages.rendering import person_address, query
from services.frontend.adapters.receiver.connection import gone, or_error, or_none
from services.frontend.domain.errors import NotDoneError, RequestRefusedError
from services.frontend.domain.people import (
    PEOPLE_ON_A_PAGE,
    SUGGESTED,
    PeoplePage,
    Person,
    choices_of,
)
from services.frontend.domain.pictures import PicturePage
from services.frontend.domain.status import StatusReport, away_parts

_KNOWN_SHOWN: Final = 23
"""Known pictures on a person's page, unless all are asked for: with one more to add, whole rows."""

_GONE: Final = "There is nobody like that, or they were forgotten."


class PeoplePages(Pages):
    """Routes of people."""

    def _add_routes(self) -> None:
        get, post = self.router.get, self._post
        get("/people")(self.people_page)
        self._add_fragment("/people", "people_live.html", self._people)
        get("/fragments/names")(self.names_fragment)
        self.router.post("/people")(self.add_known_picture)  # a form with files
        get("/people/{who}")(self.person_page)
        self._add_fragment("/people/{who}", "person_live.html", self._person)
        get("/people/{who}/merge")(self.merge_page)
        get("/people/{who}/erase")(self.erase_page)
        get("/people/{who}/export")(self.export)
        post("/people/{who}/rename", self.rename)
        post("/people/{who}/hide", self.hide)
        post("/people/{who}/show", self.show)
        post("/people/{who}/faces/{picture_id}/{index}/stand", self.set_face)
        post("/people/{who}/faces/{picture_id}/{index}/name", self.move_face)
        post("/people/{who}/faces/{picture_id}/{index}/deny", self.deny_face)
        post("/people/{who}/merge", self.merge)
        post("/people/{who}/merges/{merge_id}/undo", self.take_back_merge)
        post("/people/{who}/erase", self.erase)
        post("/people/{who}/delete", self.delete_person)
        post("/people/{who}/pictures/{picture_id}/delete", self.delete_known_picture)

    async def people_page(
        self, name: Filter = None, cursor: Cursor = None, hidden: Filter = None
    ) -> Response:
        """Show known people, by name; with ``hidden`` those who are left out else."""
        return await self._answers.page("people.html", await self._people(name, cursor, hidden))

    async def person_page(
        self, who: str, cursor: Cursor = None, known: Filter = None, refusal: NotRefused = None
    ) -> Response:
        """Show one person: all pictures, newest first."""
        view = await self._person(who, cursor, known)
        if view["missing"]:
            return await self._missing(who, view["missing"])
        return await self._answers.page("person.html", view, refusal)

    async def merge_page(
        self, who: str, name: Filter = None, cursor: Cursor = None, refusal: NotRefused = None
    ) -> Response:
        """Show whom a person may be one with."""
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
        return await self._answers.page("person_merge.html", view, refusal)

    async def erase_page(self, who: str, refusal: NotRefused = None) -> Response:
        """Say what goes when a person is forgotten for good."""
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
        return await self._answers.page("person_erase.html", view, refusal)

    async def export(self, who: str) -> Response:
        """Pass on all that is kept of a person, as a file."""
        pieces = self._receiver.people.export(who)
        first = await anext(pieces, b"")  # raises what is wrong before the answer begins

        async def whole() -> AsyncIterator[bytes]:
            yield first
            try:
                async for piece in pieces:
                    yield piece
            except NotDoneError as error:
                # Too late for a page that says so: the connection ends, and the log has it.
                raise RuntimeError("an export was cut off") from error

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
            return await self.merge_page(who, refusal=refusal)
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
            return await self.erase_page(who, Refusal(error.message, error.status))
        return self._answers.message(HTTPStatus.OK, erased.summary, title="Forgotten for good")

    # What the pages are made of

    async def _people(
        self, name: Filter = None, cursor: Cursor = None, hidden: Filter = None
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

    async def _refused(self, request: Request, who: str, refusal: Refusal) -> Response:
        if wants_json(request):
            return self._answers.refused(request, refusal)
        return await self.person_page(who, refusal=refusal)

    async def _missing(self, who: str, error: RequestRefusedError) -> Response:
        if error.status == HTTPStatus.NOT_FOUND:
            return self._answers.message(HTTPStatus.NOT_FOUND, _GONE)
        namesakes = await bearers(who, self._receiver.people)
        return self._answers.message(error.status, error.message, namesakes)

    async def _person(
        self, who: str, cursor: Cursor = None, known: Filter = None
    ) -> dict[str, Any]:
        report, person, page, names = await asyncio.gather(
            or_error(self._receiver.status(who)),
            or_error(self._receiver.people.get(who)),
            or_error(self._receiver.pictures.page(person=who, cursor=cursor)),
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


def _total(report: object) -> int | None:
    """Return how many pictures a report counts, if it does."""
    counts = report.images if isinstance(report, StatusReport) else None
    return None if counts is None else sum(counts.values())
