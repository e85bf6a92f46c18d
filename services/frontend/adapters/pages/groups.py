"""The pages of unknown faces: groups to name, and questions who is the same."""

import asyncio
from collections.abc import Collection
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request
from starlette.responses import RedirectResponse, Response

from services.frontend.adapters.pages.answers import done, wants_json
from services.frontend.adapters.pages.base import Pages
from services.frontend.adapters.pages.forms import Cursor, form_of, text_of
from services.frontend.adapters.pages.naming import Naming, NotRefused, Refusal, refusal_of
from services.frontend.adapters.pages.rendering import query
from services.frontend.adapters.receiver.connection import gone, or_error, or_none
from services.frontend.domain.errors import NotDoneError, RequestRefusedError
from services.frontend.domain.faces import FaceKey, face_key
from services.frontend.domain.groups import Group, GroupPage
from services.frontend.domain.status import away_parts
from services.frontend.domain.words import counted

_ANSWERED: Final = {
    "yes": "Yes, the same person.",
    "no": "No, two people.",
    "later": "Asked again later.",
}


class GroupPages(Pages):
    """Routes of groups and questions."""

    def _add_routes(self) -> None:
        get, post = self.router.get, self._post
        get("/who")(self.groups_page)
        self._add_fragment("/who", "groups_live.html", self._groups)
        get("/who/{group_id}")(self.group_page)
        self._add_fragment("/who/{group_id}", "group_live.html", self._group)
        post("/who/{group_id}", self.name_or_leave_out)
        post("/who/questions/{question_id}", self.answer)

    async def groups_page(self, cursor: Cursor = None, refusal: NotRefused = None) -> Response:
        """Show groups, largest first, below the questions."""
        return await self._answers.page("groups.html", await self._groups(cursor), refusal)

    async def group_page(self, group_id: int, cursor: Cursor = None) -> Response:
        """Show one group; of a merged one, lead to the group that it is in now."""
        return await self._group_page(group_id, cursor)

    async def answer(self, request: Request, question_id: int) -> Response:
        """Answer a question as the form says."""
        answer = text_of(await form_of(request), "answer")
        if answer not in _ANSWERED:
            raise RequestRefusedError("Choose an answer.")
        # Where somebody else has answered, or the group has been named, there is nothing to ask.
        await gone(self._receiver.groups.answer(question_id, answer))
        return done(request, "/who", _ANSWERED[answer])

    async def name_or_leave_out(self, request: Request, group_id: int) -> Response:
        """Name a group but the faces that are ticked, or only leave these out of it."""
        form = await form_of(request)
        ticked = sorted({str(value) for value in form.getlist("except")})
        faces = [face for text in ticked if (face := face_key(text))]
        if "leave_out" in form:
            return await self._leave_out(request, group_id, faces)
        naming = Naming.of(form)
        try:
            named = await self._receiver.groups.name(
                group_id, naming.somebody, faces, another=naming.another
            )
        except NotDoneError as error:
            refusal = await refusal_of(error, naming, self._receiver.people, group_id)
            if wants_json(request):
                return self._answers.refused(request, refusal)
            cursor = text_of(form, "cursor") or None
            if "alone" in form:
                return await self._group_page(group_id, cursor, refusal, ticked)
            return await self.groups_page(cursor, refusal)
        return done(request, "/who", named.text)

    async def _leave_out(self, request: Request, group_id: int, faces: list[FaceKey]) -> Response:
        if not faces:
            raise RequestRefusedError("Tick the faces that do not belong.")
        for face in faces:
            await gone(self._receiver.groups.leave_out(group_id, face))
        said = f"{counted(len(faces), 'face')} left out of this group."
        return done(request, f"/who/{group_id}", said)

    # What the pages are made of

    async def _groups(self, cursor: Cursor = None) -> dict[str, Any]:
        report, page, questions, names = await asyncio.gather(
            or_error(self._receiver.status(counts=False)),
            or_error(self._receiver.groups.page(cursor)),
            or_none(self._receiver.groups.questions()),
            or_none(self._names.get()),
        )
        if isinstance(page, RequestRefusedError):  # no such cursor, or a receiver without groups
            page = GroupPage(groups=(), next_cursor=None)
        return {
            "page": page if isinstance(page, GroupPage) else None,
            "questions": questions.questions if questions else (),
            "names": names,
            "problems": away_parts(report, page),
            "available": isinstance(page, GroupPage),
            "cursor": cursor,
            "fragment": query("/fragments/who", cursor=cursor),
        }

    async def _group_page(
        self,
        group_id: int,
        cursor: str | None,
        refusal: Refusal | None = None,
        left_out: Collection[str] = (),
    ) -> Response:
        view = await self._group(group_id, cursor) | {"left_out": left_out}
        group: Group | None = view["group"]
        if group and group.id != group_id:
            return RedirectResponse(f"/who/{group.id}", HTTPStatus.SEE_OTHER)
        status = HTTPStatus.NOT_FOUND if view["is_over"] else HTTPStatus.OK
        return await self._answers.page("group.html", view, refusal, status)

    async def _group(self, group_id: int, cursor: Cursor = None) -> dict[str, Any]:
        report, group, names = await asyncio.gather(
            or_error(self._receiver.status(counts=False)),
            or_error(self._receiver.groups.get(group_id, cursor)),
            or_none(self._names.get()),
        )
        if is_over := isinstance(
            group, RequestRefusedError
        ):  # all its faces have a name, or are gone
            group = Group(id=group_id, size=0, faces=())
        return {
            "group": group if isinstance(group, Group) else None,
            "names": names,
            "problems": away_parts(report, group),
            "available": isinstance(group, Group),
            "is_over": is_over,
            "cursor": cursor,
            "left_out": (),
            "fragment": query(f"/fragments/who/{group_id}", cursor=cursor),
        }
