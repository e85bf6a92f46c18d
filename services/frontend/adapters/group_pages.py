"""The pages of unknown faces: groups to name, and questions who is the same."""

import asyncio
from collections.abc import Collection
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from services.common import bodies
from services.frontend.adapters.answers import (
    MAX_NAME_FORM_BYTES,
    Answers,
    Cursor,
    Naming,
    Refusal,
    done,
    error_of,
    gone,
    or_error,
    or_none,
    problems,
    wants_json,
)
from services.frontend.adapters.receiver import Receiver
from services.frontend.adapters.rendering import query
from services.frontend.domain import FaceKey, ReceiverAwayError, RefusedError, counted
from services.frontend.groups import (
    FACES_ON_A_PAGE,
    GROUPS_ON_A_PAGE,
    QUESTIONS,
    Group,
    GroupPage,
    Named,
    Questions,
    face_key,
)
from services.frontend.service import Names

_ANSWERED = {"yes": "Yes, the same person.", "no": "No, two people.", "later": "Asked again later."}


class GroupPages:
    """Routes of groups and questions."""

    def __init__(self, receiver: Receiver, answers: Answers, names: Names) -> None:
        self._receiver = receiver
        self._answers = answers
        self._names = names

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        get, post = router.get, router.post
        get("/who")(self.groups_page)
        get("/fragments/who")(self.groups_fragment)
        get("/who/{group_id}")(self.group_page)
        get("/fragments/who/{group_id}")(self.group_fragment)
        post("/who/{group_id}")(self.name_or_leave_out)
        post("/who/questions/{question_id}")(self.answer)
        return router

    async def groups_page(self, cursor: Cursor = None) -> Response:
        """Show groups, largest first, below the questions."""
        return await self._groups_page(cursor)

    async def groups_fragment(self, request: Request, cursor: Cursor = None) -> Response:
        """Return what changes on the page of groups."""
        return self._answers.fragment(request, "groups_live.html", await self._groups(cursor))

    async def group_page(self, group_id: int, cursor: Cursor = None) -> Response:
        """Show one group; of a merged one, lead to the group that it is in now."""
        return await self._group_page(group_id, cursor)

    async def group_fragment(
        self, request: Request, group_id: int, cursor: Cursor = None
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

    async def name_or_leave_out(self, request: Request, group_id: int) -> Response:
        """Name a group but the faces that are ticked, or only leave these out of it."""
        small = bodies.limited(request, MAX_NAME_FORM_BYTES)
        async with small.form(max_files=0, max_fields=FACES_ON_A_PAGE + 8) as form:
            naming = Naming.of(form)
            ticked = frozenset(str(one) for one in form.getlist("except"))
            only_leave_out = "leave_out" in form
            on_its_page = "alone" in form
            cursor = str(form.get("cursor", "")) or None
        faces = [face for one in sorted(ticked) if (face := face_key(one))]
        if only_leave_out:
            return await self._leave_out(request, group_id, faces)
        answer: Named | RefusedError | ReceiverAwayError = RefusedError(422, "Enter a name.")
        if naming.who:
            answer = await or_error(
                self._receiver.name_group(group_id, naming.who, faces, another=naming.another)
            )
        if isinstance(answer, Named):
            return done(request, "/who", answer.text)
        refusal = await self._answers.refusal(answer, naming, group_id)
        if wants_json(request):
            return self._answers.refused(request, refusal)
        if on_its_page:
            return await self._group_page(group_id, cursor, refusal, ticked)
        return await self._groups_page(cursor, refusal)

    async def _leave_out(self, request: Request, group_id: int, faces: list[FaceKey]) -> Response:
        if not faces:
            return self._answers.failure(
                request, RefusedError(422, "Tick the faces that do not belong.")
            )
        for face in faces:
            error = await error_of(gone(self._receiver.leave_out(group_id, face)))
            if error is not None:
                return self._answers.failure(request, error)
        said = f"{counted(len(faces), 'face')} left out of this group."
        return done(request, f"/who/{group_id}", said)

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
            "refusal": None,
            "fragment": query("/fragments/who", cursor=cursor),
        }

    async def _groups_page(self, cursor: str | None, refusal: Refusal | None = None) -> Response:
        view = {**await self._groups(cursor), "refusal": refusal}
        status = refusal.status if refusal else HTTPStatus.OK
        return self._answers.page("groups.html", view, status=status)

    async def _group(self, group_id: int, cursor: str | None) -> dict[str, Any]:
        report, group, names = await asyncio.gather(
            self._answers.report(counts=False),
            or_error(self._receiver.group(group_id, cursor=cursor, limit=FACES_ON_A_PAGE)),
            or_none(self._names.get()),
        )
        missing = isinstance(group, RefusedError)
        if isinstance(group, RefusedError):  # all its faces have a name, or are gone
            group = Group(id=group_id, size=0, faces=())
        return {
            "group": group if isinstance(group, Group) else None,
            "names": names,
            "problems": problems(report, group),
            "available": isinstance(group, Group),
            "is_over": missing,
            "busy": False,
            "cursor": cursor,
            "refusal": None,
            "left_out": (),
            "fragment": query(f"/fragments/who/{group_id}", cursor=cursor),
        }

    async def _group_page(
        self,
        group_id: int,
        cursor: str | None,
        refusal: Refusal | None = None,
        left_out: Collection[str] = (),
    ) -> Response:
        view = await self._group(group_id, cursor)
        status = HTTPStatus.NOT_FOUND if view["is_over"] else HTTPStatus.OK
        if refusal:
            view |= {"refusal": refusal, "left_out": left_out}
            status = HTTPStatus(refusal.status)
        group: Group | None = view["group"]
        if group and group.id != group_id:
            return RedirectResponse(f"/who/{group.id}", HTTPStatus.SEE_OTHER)
        return self._answers.page("group.html", view, status=status)
