"""The pages of unknown faces: groups to name, and questions who is the same."""

import asyncio
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from services.common import bodies
from services.frontend.adapters.answers import (
    MAX_NAME_FORM_BYTES,
    Answers,
    Filter,
    done,
    error_of,
    explain,
    gone,
    or_error,
    or_none,
    problems,
    wants_json,
)
from services.frontend.adapters.receiver import Receiver
from services.frontend.adapters.rendering import Renderer, query
from services.frontend.domain import SUGGESTED, FaceKey, ReceiverAwayError, RefusedError
from services.frontend.groups import (
    FACES_ON_A_PAGE,
    GROUPS_ON_A_PAGE,
    QUESTIONS,
    Group,
    GroupPage,
    Named,
    Naming,
    Questions,
    Somebody,
    count_faces,
    face_key,
)
from services.frontend.service import Names

_ANSWERED = {"yes": "Yes, the same person.", "no": "No, two people.", "later": "Asked again later."}


class GroupPages:
    """Routes of groups and questions."""

    def __init__(self, receiver: Receiver, answers: Answers, renderer: Renderer) -> None:
        self._receiver = receiver
        self._answers = answers
        self._renderer = renderer
        self._names = Names(partial(receiver.people, limit=SUGGESTED))

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        get, post = router.get, router.post
        get("/who")(self.groups_page)
        get("/fragments/who")(self.groups_fragment)
        get("/who/{group_id}")(self.group_page)
        get("/fragments/who/{group_id}")(self.group_fragment)
        post("/who/{group_id}")(self.name_or_strike_out)
        post("/who/questions/{question_id}")(self.answer)
        return router

    async def groups_page(self, cursor: Filter = None) -> Response:
        """Show groups, largest first, below the questions."""
        return await self._groups_page(cursor)

    async def groups_fragment(self, request: Request, cursor: Filter = None) -> Response:
        """Return what changes on the page of groups."""
        return self._answers.fragment(request, "groups_live.html", await self._groups(cursor))

    async def group_page(self, group_id: int, cursor: Filter = None) -> Response:
        """Show one group; of a merged one, lead to the group that it is in now."""
        return await self._group_page(group_id, cursor)

    async def group_fragment(
        self, request: Request, group_id: int, cursor: Filter = None
    ) -> Response:
        """Return what changes on the page of a group."""
        return self._answers.fragment(
            request, "group_live.html", await self._group(group_id, cursor)
        )

    async def answer(self, request: Request, question_id: int) -> Response:
        """Answer a question as the form says."""
        small = bodies.limited(request, MAX_NAME_FORM_BYTES)
        async with small.form(max_files=0, max_fields=4) as form:
            answer = str(form.get("answer", ""))
        if answer not in _ANSWERED:
            return self._answers.failure(request, RefusedError(422, "Choose an answer."))
        # Where somebody else has answered, or the group has been named, there is nothing to ask.
        error = await error_of(gone(self._receiver.answer(question_id, answer)))
        if error is None:
            return done(request, "/who", _ANSWERED[answer])
        return self._answers.failure(request, error)

    async def name_or_strike_out(self, request: Request, group_id: int) -> Response:
        """Name a group but the faces that are ticked, or only take these out of it."""
        small = bodies.limited(request, MAX_NAME_FORM_BYTES)
        async with small.form(max_files=0, max_fields=FACES_ON_A_PAGE + 8) as form:
            fields = {key: str(value).strip() for key, value in form.items()}
            ticked = frozenset(str(one) for one in form.getlist("except"))
        faces = [face for one in sorted(ticked) if (face := face_key(one))]
        here = f"/who/{group_id}"
        if "strike" in fields:
            return await self._strike_out(request, group_id, faces)
        who = fields.get("who") or fields.get("person", "")
        answer = (
            await or_error(
                self._receiver.name_group(group_id, who, faces, another="another" in fields)
            )
            if who
            else RefusedError(422, "Enter a name.")
        )
        if isinstance(answer, Named):
            return done(request, "/who", answer.text)
        name = fields.get("person", "")
        choices = await self._choices(name, answer)
        message, status = explain(answer)
        if choices:
            message = f"{len(choices)} people are called {name}. Who is it?"
        if wants_json(request):
            rendered = self._renderer.render("group_choices.html", choices=choices, name=name)
            extra = {"choices": rendered} if choices else {}
            return JSONResponse({"message": message, **extra}, status)
        naming = Naming(group_id, name, ticked, message, choices)
        if fields.get("from") == here:
            return await self._group_page(group_id, fields.get("cursor"), status, naming)
        return await self._groups_page(fields.get("cursor"), status, naming)

    async def _strike_out(self, request: Request, group_id: int, faces: list[FaceKey]) -> Response:
        if not faces:
            return self._answers.failure(
                request, RefusedError(422, "Tick the faces that do not belong.")
            )
        for face in faces:
            error = await error_of(gone(self._receiver.strike_out(group_id, face)))
            if error is not None:
                return self._answers.failure(request, error)
        said = f"{count_faces(len(faces))} taken out of this group."
        return done(request, f"/who/{group_id}", said)

    async def _choices(
        self, name: str, error: RefusedError | ReceiverAwayError
    ) -> tuple[Somebody, ...]:
        """Return whom a name may mean, if that is why it was refused."""
        if not isinstance(error, RefusedError) or error.status != HTTPStatus.CONFLICT:
            return ()
        found = await or_none(self._receiver.called(name)) or ()
        return found if len(found) > 1 else ()

    async def _groups(self, cursor: str | None) -> dict[str, Any]:
        report, page, questions, names = await asyncio.gather(
            self._answers.report(counts=False),
            or_error(self._receiver.groups(cursor=cursor, limit=GROUPS_ON_A_PAGE)),
            or_none(self._receiver.questions(limit=QUESTIONS)),
            or_none(self._names.get()),
        )
        if isinstance(page, RefusedError):  # a cursor that is none, or a receiver without groups
            page = GroupPage(groups=(), next_cursor=None)
        return {
            "page": page if isinstance(page, GroupPage) else None,
            "questions": (questions or Questions(questions=())).questions,
            "names": names,
            "problems": problems(report, page),
            "available": isinstance(page, GroupPage),
            "busy": False,
            "cursor": cursor,
            "naming": None,
            "fragment": query("/fragments/who", cursor=cursor),
        }

    async def _groups_page(
        self, cursor: str | None, status: int = HTTPStatus.OK, naming: Naming | None = None
    ) -> Response:
        view = await self._groups(cursor)
        return self._answers.page("groups.html", {**view, "naming": naming}, status=status)

    async def _group(self, group_id: int, cursor: str | None) -> dict[str, Any]:
        report, group, names = await asyncio.gather(
            self._answers.report(counts=False),
            or_error(self._receiver.group(group_id, cursor=cursor, limit=FACES_ON_A_PAGE)),
            or_none(self._names.get()),
        )
        return {
            "group": group if isinstance(group, Group) else None,
            "names": names,
            "problems": problems(report, group),
            "available": isinstance(group, Group),
            "missing": isinstance(group, RefusedError),
            "busy": False,
            "cursor": cursor,
            "naming": None,
            "fragment": query(f"/fragments/who/{group_id}", cursor=cursor),
        }

    async def _group_page(
        self,
        group_id: int,
        cursor: str | None,
        status: int = HTTPStatus.OK,
        naming: Naming | None = None,
    ) -> Response:
        view = await self._group(group_id, cursor)
        if view["missing"]:
            return self._answers.message(
                HTTPStatus.NOT_FOUND, "There is no such group of faces, or no longer."
            )
        group: Group | None = view["group"]
        if group and group.id != group_id:
            return RedirectResponse(f"/who/{group.id}", HTTPStatus.SEE_OTHER)
        return self._answers.page("group.html", {**view, "naming": naming}, status=status)
