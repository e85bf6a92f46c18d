"""The page of one person, and what is done there: who it is, what is theirs, and what goes.

Every action is a form that works without JavaScript, as on all pages.
"""

import asyncio
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from services.common.names import id_of
from services.frontend.adapters.answers import (
    Answers,
    Cursor,
    Filter,
    Naming,
    Refusal,
    done,
    error_of,
    explain,
    form_of,
    name_face,
    or_error,
    or_none,
    problems,
    wants_json,
)
from services.frontend.adapters.receiver import Receiver
from services.frontend.adapters.rendering import person_address, query
from services.frontend.domain import (
    PAGE_SIZE,
    Erased,
    PeoplePage,
    Person,
    PicturePage,
    ReceiverAwayError,
    RefusedError,
    StatusReport,
)
from services.frontend.service import Names

_KNOWN_SHOWN: Final = 23
"""Known pictures on a person's page, unless all are asked for: with one more to add, whole rows."""

_GONE: Final = "There is nobody like that, or they were forgotten."


class PersonPages:
    """Routes of one person."""

    def __init__(self, receiver: Receiver, answers: Answers, names: Names) -> None:
        self._receiver = receiver
        self._answers = answers
        self._names = names

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
            request, "person_live.html", await self._person(who, cursor, known)
        )

    async def merge_page(self, who: str, name: Filter = None, cursor: Cursor = None) -> Response:
        """Show whom a person may be one with."""
        return await self._merge_page(who, name, cursor)

    async def erase_page(self, who: str) -> Response:
        """Say what goes when a person is forgotten for good."""
        return await self._erase_page(who)

    async def export(self, request: Request, who: str) -> Response:
        """Pass on all that is kept of a person, as a file."""
        pieces = self._receiver.export(who)
        try:
            first = await anext(pieces, b"")
        except (RefusedError, ReceiverAwayError) as error:
            return self._answers.failure(request, error)

        async def whole() -> Any:
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
        error = await error_of(self._receiver.rename(who, naming.name, another=naming.another))
        if error is None:
            return done(request, person_address(who if id_of(who) is not None else naming.name))
        message, status = explain(error)
        taken = status == HTTPStatus.CONFLICT and not naming.another
        refusal = Refusal(
            message,
            status,
            "rename",
            naming.name,
            another=f"Call both {naming.name}" if taken else "",
        )
        return await self._refused(request, who, refusal)

    async def hide(self, request: Request, who: str) -> Response:
        """Leave a person out where people are listed."""
        action = self._receiver.hide(who, hidden=True)
        return await self._answers.act(request, action, person_address(who))

    async def show(self, request: Request, who: str) -> Response:
        """List a person again."""
        action = self._receiver.hide(who, hidden=False)
        return await self._answers.act(request, action, person_address(who))

    async def set_face(self, request: Request, who: str, picture_id: int, index: int) -> Response:
        """Let a face stand for a person."""
        action = self._receiver.set_face(who, picture_id, index)
        return await self._answers.act(request, action, person_address(who))

    async def move_face(self, request: Request, who: str, picture_id: int, index: int) -> Response:
        """Make a face that was a person's a known picture of the one named in the form."""
        naming = Naming.of(await form_of(request))
        error = await name_face(self._receiver, naming, picture_id, index)
        if error is None:
            return done(request, person_address(who))
        refusal = await self._answers.refusal(error, naming, f"{picture_id}-{index}")
        return await self._refused(request, who, refusal)

    async def deny_face(self, request: Request, who: str, picture_id: int, index: int) -> Response:
        """Say that a face is not this person, whoever said so before."""
        action = self._receiver.deny(who, picture_id, index, insist=True)
        return await self._answers.act(request, action, person_address(who))

    async def merge(self, request: Request, who: str) -> Response:
        """Make all that is the chosen one's this person's."""
        naming = Naming.of(await form_of(request))
        error = await error_of(self._receiver.merge(who, naming.who))
        if error is None:
            return done(request, person_address(who))
        message, status = explain(error)
        refusal = Refusal(message, status, naming.who)
        if wants_json(request):
            return self._answers.refused(request, refusal)
        return await self._merge_page(who, None, None, refusal)

    async def take_back_merge(self, request: Request, who: str, merge_id: int) -> Response:
        """Tell somebody apart again."""
        action = self._receiver.take_back_merge(who, merge_id)
        return await self._answers.act(request, action, person_address(who))

    async def erase(self, request: Request, who: str) -> Response:
        """Forget a person for good, once somebody has said that this is meant."""
        form = await form_of(request)
        erased: Erased | RefusedError | ReceiverAwayError = RefusedError(
            HTTPStatus.UNPROCESSABLE_ENTITY, "Tick the box that says that you mean it."
        )
        if "sure" in form:
            erased = await or_error(self._receiver.erase(who, pictures="pictures" in form))
        if isinstance(erased, Erased):
            return self._answers.message(HTTPStatus.OK, erased.summary, title="Forgotten for good")
        return await self._erase_page(who, Refusal(*explain(erased)))

    # What the pages are made of

    async def _page(
        self,
        who: str,
        cursor: str | None = None,
        known: str | None = None,
        refused: Refusal | None = None,
    ) -> Response:
        view = await self._person(who, cursor, known)
        if view["missing"]:
            return await self._missing(who, view["missing"])
        status = refused.status if refused else HTTPStatus.OK
        return self._answers.page("person.html", {**view, "refused": refused}, status=status)

    async def _refused(self, request: Request, who: str, refusal: Refusal) -> Response:
        if wants_json(request):
            return self._answers.refused(request, refusal)
        return await self._page(who, refused=refusal)

    async def _missing(self, who: str, error: RefusedError) -> Response:
        if error.status == HTTPStatus.NOT_FOUND:
            return self._answers.message(HTTPStatus.NOT_FOUND, _GONE)
        return self._answers.message(error.status, error.message, await self._answers.bearers(who))

    async def _person(self, who: str, cursor: str | None, known: str | None) -> dict[str, Any]:
        report, person, page, names = await asyncio.gather(
            self._answers.report(who),
            or_error(self._receiver.person(who)),
            or_error(
                self._receiver.pictures(status=None, person=who, cursor=cursor, limit=PAGE_SIZE)
            ),
            or_none(self._names.get()),
        )
        if isinstance(page, RefusedError):  # for example the cursor of an older version
            page = PicturePage(images=(), next_cursor=None)
        found = isinstance(person, Person) and isinstance(page, PicturePage)
        counts = report.images if isinstance(report, StatusReport) else None
        return {
            "person": person if isinstance(person, Person) else None,
            "page": page if isinstance(page, PicturePage) else None,
            "total": None if counts is None else sum(counts.values()),
            "names": names,
            "shown": None if known == "all" else _KNOWN_SHOWN,
            "problems": problems(report, person, page),
            "available": found,
            "missing": person if isinstance(person, RefusedError) else None,
            "busy": False,
            "refused": None,
            "filter": {"cursor": cursor, "known": known},
            "fragment": query(
                # By what stays when the name changes.
                f"/fragments{person_address(person.who if isinstance(person, Person) else who)}",
                cursor=cursor,
                known=known,
            ),
        }

    async def _merge_page(
        self, who: str, name: str | None, cursor: str | None, refused: Refusal | None = None
    ) -> Response:
        person, page, names = await asyncio.gather(
            or_error(self._receiver.person(who)),
            or_error(self._receiver.people(name=name or None, cursor=cursor, limit=PAGE_SIZE)),
            or_none(self._names.get()),
        )
        if isinstance(person, RefusedError):
            return await self._missing(who, person)
        if isinstance(page, RefusedError):  # a name or a cursor that is none
            page = PeoplePage(people=())
        view = {
            "person": person,
            "page": page,
            "names": names,
            "filter": {"name": name, "cursor": cursor},
            "problems": problems(None, person, page),
            "available": isinstance(person, Person) and isinstance(page, PeoplePage),
            "refused": refused,
        }
        status = refused.status if refused else HTTPStatus.OK
        return self._answers.page("person_merge.html", view, status=status)

    async def _erase_page(self, who: str, refused: Refusal | None = None) -> Response:
        report, person = await asyncio.gather(
            self._answers.report(who), or_error(self._receiver.person(who))
        )
        if isinstance(person, RefusedError):
            return await self._missing(who, person)
        counts = report.images if isinstance(report, StatusReport) else None
        view = {
            "person": person,
            "total": None if counts is None else sum(counts.values()),
            "problems": problems(report, person),
            "available": isinstance(person, Person),
            "refused": refused,
        }
        status = refused.status if refused else HTTPStatus.OK
        return self._answers.page("person_erase.html", view, status=status)
