"""The receiver's API by what it is about; errors as :class:`ReceiverConnection` says."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable
from dataclasses import asdict
from http import HTTPStatus
from typing import Final

from services.common.faces import Box
from services.frontend.adapters.receiver.connection import ReceiverConnection, file_form
from services.frontend.domain.access import (
    Account,
    AuditPage,
    KeyList,
    MadeKey,
    OpenedSession,
    UserPage,
)
from services.frontend.domain.faces import FaceKey
from services.frontend.domain.groups import (
    FACES_ON_A_PAGE,
    GROUPS_ON_A_PAGE,
    QUESTIONS,
    Group,
    GroupPage,
    Named,
    Questions,
)
from services.frontend.domain.people import Erased, PeoplePage, Person
from services.frontend.domain.pictures import (
    PICTURES_ON_A_PAGE,
    AcceptedList,
    PicturePage,
    SubmittedPicture,
)
from services.frontend.domain.search import SearchResult
from services.frontend.domain.status import StatusReport

_SMALL_AT_ONCE: Final = 32
"""Connections that wait for small pictures, so that some are left for the pages."""

_DENIAL: Final = "/images/{id}/faces/{index}/denials/{name}"


class _Operations:
    def __init__(self, connection: ReceiverConnection) -> None:
        self._call = connection.call
        self._read = connection.read
        self._stream = connection.stream


class PicturesApi(_Operations):
    """Operations on submitted pictures."""

    def __init__(self, connection: ReceiverConnection) -> None:
        super().__init__(connection)
        self._small = asyncio.Semaphore(_SMALL_AT_ONCE)

    async def page(
        self, *, person: str | None, cursor: str | None, status: str | None = None
    ) -> PicturePage:
        """Return pictures, newest first; ``cursor`` is the ``next_cursor`` of an earlier page."""
        params = {"status": status, "person": person, "cursor": cursor, "limit": PICTURES_ON_A_PAGE}
        return await self._read(PicturePage, "GET /images", params=params)

    async def get(self, picture_id: int) -> SubmittedPicture:
        """Return one picture."""
        return await self._read(SubmittedPicture, "GET /images/{id}", picture_id)

    async def upload(
        self, body: AsyncIterable[bytes], *, content_type: str, size: int
    ) -> AcceptedList:
        """Pass a multipart body of ``size`` bytes on."""
        # In bytes: a header may hold what is not ASCII, which httpx would not encode.
        headers = {
            b"Content-Type": content_type.encode("latin-1"),
            b"Content-Length": str(size).encode(),
        }
        return await self._read(
            AcceptedList, "POST /images", content=body, headers=headers, slow=True
        )

    async def retry(self, picture_id: int) -> None:
        """Send a rejected or dead picture back to waiting."""
        await self._call("POST /images/{id}/retry", picture_id)

    async def recognise(self, picture_id: int) -> None:
        """Have a processed picture compared with the people known now."""
        await self._call("POST /images/{id}/recognise", picture_id)

    async def delete(self, picture_id: int) -> None:
        """Remove a picture and its result."""
        await self._call("DELETE /images/{id}", picture_id)

    async def small(
        self, operation: str, *parts: str | int, if_none_match: str | None
    ) -> tuple[bytes | None, str]:
        """Return the JPEG that answers an operation and its tag; None for one the browser has.

        Whole, not as a stream: it has some tens of KB, and a browser that reads slowly should hold
        none of the few connections.
        """
        headers = {"If-None-Match": if_none_match} if if_none_match else {}
        async with self._small:
            answer = await self._call(operation, *parts, headers=headers)
        has_it = answer.status_code == HTTPStatus.NOT_MODIFIED
        return None if has_it else answer.content, answer.headers["ETag"]


class FacesApi(_Operations):
    """Operations on faces."""

    async def enrol(
        self, person: str, picture_id: int, index: int, *, insist: bool, another: bool
    ) -> None:
        """Make a face of a submitted picture a known picture of a person.

        Of somebody new with ``another``, whoever else has the name.
        """
        face = {"image_id": picture_id, "face_index": index}
        await self._call(
            "POST /people/{name}/pictures",
            person,
            params={"insist": insist},
            json=face | ({"another": True} if another else {}),
            slow=True,
        )

    async def draw(self, picture_id: int, box: Box, person: str, *, another: bool) -> None:
        """Add a face where no machine saw one; ``person`` is who it is, empty if nobody knows.

        It is somebody new with ``another``, whoever else has the name.
        """
        await self._call(
            "POST /images/{id}/faces",
            picture_id,
            json={"box": asdict(box), "name": person or None, "another": another},
            slow=True,
        )

    async def strike_out(self, picture_id: int, index: int) -> None:
        """Say that a face is none."""
        await self._call("DELETE /images/{id}/faces/{index}", picture_id, index)

    async def restore(self, picture_id: int, index: int) -> None:
        """Take back that a face is none."""
        await self._call("POST /images/{id}/faces/{index}/restore", picture_id, index, slow=True)

    async def deny(self, person: str, picture_id: int, index: int, *, insist: bool = False) -> None:
        """Say that a face is not a person's; who insists, though a hand has said that it is."""
        await self._call(f"PUT {_DENIAL}", picture_id, index, person, params={"insist": insist})

    async def allow(self, person: str, picture_id: int, index: int) -> None:
        """Take back that a face is not a person's."""
        await self._call(f"DELETE {_DENIAL}", picture_id, index, person)


class PeopleApi(_Operations):
    """Operations on people."""

    async def page(
        self,
        *,
        name: str | None = None,
        person: str | None = None,
        hidden: bool = False,
        cursor: str | None = None,
        limit: int,
    ) -> PeoplePage:
        """Return people by name, only those with ``name`` in their names, or called ``person``.

        Those who are hidden, or the others. A receiver of before there were pages returns everybody
        whatever it is asked.
        """
        params = {
            "name": name,
            "person": person,
            "hidden": hidden,
            "cursor": cursor,
            "limit": limit,
        }
        return await self._read(PeoplePage, "GET /people", params=params)

    async def get(self, who: str) -> Person:
        """Return one person, and whom one may tell apart from them again."""
        return await self._read(Person, "GET /people/{name}", who)

    async def enrol_picture(
        self, person: str, file: AsyncIterable[bytes], size: int, *, insist: bool, another: bool
    ) -> None:
        """Make an uploaded file of ``size`` bytes a known picture of a person.

        Of somebody new with ``another``, whoever else has the name.
        """
        await self._call(
            "POST /people/{name}/pictures",
            person,
            params={"insist": insist, "another": another},
            **file_form(file, size),
            slow=True,
        )

    async def delete_known_picture(self, person: str, picture_id: int) -> None:
        """Forget one known picture."""
        await self._call("DELETE /people/{name}/pictures/{id}", person, picture_id)

    async def rename(self, person: str, name: str, *, another: bool) -> None:
        """Give a person another name; one that somebody else has, too, with ``another``."""
        body = {"name": name} | ({"another": True} if another else {})
        await self._call("PATCH /people/{name}", person, json=body)

    async def hide(self, person: str, *, hidden: bool) -> None:
        """Leave a person out where people are listed, or do so no more."""
        await self._call("PATCH /people/{name}", person, json={"hidden": hidden})

    async def set_face(self, person: str, picture_id: int, index: int) -> None:
        """Let a face stand for a person."""
        face = {"image_id": picture_id, "face_index": index}
        await self._call("PUT /people/{name}/face", person, json=face)

    async def merge(self, person: str, other: str) -> None:
        """Make all that is the other's this person's."""
        body = {"name": other}
        await self._call("POST /people/{name}/merge", person, json=body, slow=True)

    async def take_back_merge(self, person: str, merge_id: int) -> None:
        """Tell somebody apart again who was said to be this person."""
        await self._call("DELETE /people/{name}/merges/{id}", person, merge_id, slow=True)

    async def delete(self, person: str) -> None:
        """Forget a person and all known pictures."""
        await self._call("DELETE /people/{name}", person)

    async def erase(self, person: str, *, pictures: bool) -> Erased:
        """Forget a person for good, and if wanted the pictures that show them."""
        return await self._read(
            Erased, "POST /people/{name}/erase", person, json={"pictures": pictures}, slow=True
        )

    def export(self, person: str) -> AsyncIterator[bytes]:
        """Yield all that is kept of a person, as JSON; what is refused is raised at first."""
        return self._stream("GET /people/{name}/export", person)


class GroupsApi(_Operations):
    """Operations on groups and questions."""

    async def page(self, cursor: str | None) -> GroupPage:
        """Return groups of unknown faces, largest first."""
        params = {"limit": GROUPS_ON_A_PAGE, "cursor": cursor}
        return await self._read(GroupPage, "GET /groups", params=params)

    async def get(self, group_id: int, cursor: str | None) -> Group:
        """Return a group with some of its faces; of a merged one, the group that it is in now."""
        params = {"limit": FACES_ON_A_PAGE, "cursor": cursor}
        return await self._read(Group, "GET /groups/{id}", group_id, params=params)

    async def name(
        self, group_id: int, who: str, left_out: Iterable[FaceKey], *, another: bool
    ) -> Named:
        """Say whose a group's faces are but those that are left out.

        ``another``: somebody new, though there is somebody called so.
        """
        body = {"name": who, "another": another, "except": [face.model_dump() for face in left_out]}
        return await self._read(Named, "PUT /groups/{id}/person", group_id, json=body, slow=True)

    async def leave_out(self, group_id: int, face: FaceKey) -> None:
        """Say that a face does not belong in a group."""
        address = "DELETE /groups/{id}/faces/{image_id}/{index}"
        await self._call(address, group_id, face.image_id, face.face_index)

    async def questions(self) -> Questions:
        """Return the likeliest of the open questions who is the same."""
        return await self._read(Questions, "GET /questions", params={"limit": QUESTIONS})

    async def answer(self, question_id: int, answer: str) -> None:
        """Answer a question with yes, no or later; yes may name a whole group."""
        body = {"answer": answer}
        await self._call("PUT /questions/{id}", question_id, json=body, slow=True)


class AccessApi(_Operations):
    """Operations on who is logged in, and on who may what."""

    async def log_in(self, name: str, password: str) -> OpenedSession:
        """Open a session for who has this password."""
        body = {"name": name, "password": password}
        return await self._read(OpenedSession, "POST /sessions", json=body)

    async def log_in_as(
        self, issuer: str, subject: str, name: str, groups: Collection[str]
    ) -> OpenedSession:
        """Open a session for whom a provider has identified."""
        body = {"issuer": issuer, "subject": subject, "name": name, "groups": sorted(groups)}
        return await self._read(OpenedSession, "POST /sessions", json=body)

    async def account(self) -> Account:
        """Return who is logged in."""
        return await self._read(Account, "GET /session")

    async def log_out(self) -> None:
        """End the session."""
        await self._call("DELETE /session")

    async def keys(self) -> KeyList:
        """Return the keys of programs."""
        return await self._read(KeyList, "GET /keys")

    async def make_key(self, name: str, scopes: Iterable[str], expires_at: str | None) -> MadeKey:
        """Make a key; ``expires_at`` is a time with its offset."""
        body = {"name": name, "scopes": list(scopes), "expires_at": expires_at}
        return await self._read(MadeKey, "POST /keys", json=body)

    async def rotate_key(self, key_id: str) -> MadeKey:
        """Make a key that replaces another, which is valid until it is revoked."""
        return await self._read(MadeKey, "POST /keys/{id}/rotate", key_id)

    async def revoke_key(self, key_id: str) -> None:
        """Make a key invalid."""
        await self._call("DELETE /keys/{id}", key_id)

    async def users(self, cursor: str | None) -> UserPage:
        """Return who may log in."""
        return await self._read(UserPage, "GET /users", params={"cursor": cursor})

    async def add_user(self, name: str, role: str, password: str) -> None:
        """Let somebody log in with a password."""
        body = {"name": name, "role": role, "password": password}
        await self._call("POST /users", json=body)

    async def change_user(self, user_id: int, change: dict[str, object]) -> None:
        """Change ``role``, ``password`` or ``disabled`` of a user, whose sessions end with that."""
        await self._call("PATCH /users/{id}", user_id, json=change)

    async def delete_user(self, user_id: int) -> None:
        """Remove a user."""
        await self._call("DELETE /users/{id}", user_id)

    async def audit(self, who: str | None, cursor: str | None) -> AuditPage:
        """Return who did what, only of ``who`` if named."""
        return await self._read(AuditPage, "GET /audit", params={"who": who, "cursor": cursor})


class ReceiverApi(_Operations):
    """All operations; those on one kind of thing are its attributes'."""

    def __init__(self, connection: ReceiverConnection) -> None:
        super().__init__(connection)
        self.pictures = PicturesApi(connection)
        self.faces = FacesApi(connection)
        self.people = PeopleApi(connection)
        self.groups = GroupsApi(connection)
        self.access = AccessApi(connection)

    async def status(self, person: str | None = None, *, counts: bool = True) -> StatusReport:
        """Return what is away, and counts by status, of a person if one is named.

        Without ``counts``, only an older receiver returns some.
        """
        params = {"person": person, "counts": None if counts else "false"}
        return await self._read(StatusReport, "GET /status", params=params)

    async def search_picture(
        self, file: AsyncIterable[bytes], size: int, *, face: int | None
    ) -> SearchResult:
        """Return stored faces that are near to one of a file of ``size`` bytes, the largest one.

        Or to that which ``face`` is.
        """
        return await self._read(
            SearchResult, "POST /search", params={"face": face}, **file_form(file, size), slow=True
        )

    async def search_face(self, picture_id: int, index: int) -> SearchResult:
        """Return stored faces that are near to one of a submitted picture."""
        face = {"image_id": picture_id, "face_index": index}
        return await self._read(SearchResult, "POST /search", json=face)
