"""The receiver's HTTP API, which is the frontend's only way to data and actions."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter

from services.common import metrics
from services.common.faces import Box
from services.common.names import InvalidNameError, check_who
from services.frontend.domain import (
    Accepted,
    Erased,
    FaceKey,
    NotNowError,
    PeoplePage,
    Person,
    Picture,
    PicturePage,
    ReceiverAwayError,
    RefusedError,
    StatusReport,
)
from services.frontend.groups import (
    Group,
    GroupPage,
    Named,
    Questions,
)
from services.frontend.search import SearchResult

_CONNECT_SECONDS: Final = 2.0

_INSIST: Final = {"insist": "true"}
_DOUBT: Final = "/query/insist"
"""Where an error points that the parameter overrules."""

_SMALL_AT_ONCE: Final = 32
"""Connections that wait for small pictures, so that some are left for the pages."""

_BOUNDARY: Final = "facestack-known-picture-0d9b6f2c7a1e4835"

_ACCEPTED: Final = TypeAdapter(tuple[Accepted, ...])

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


def known_picture_address(person: str, picture_id: int) -> str:
    """Return the address of a known picture's file at the receiver."""
    return f"{_person_address(person)}/pictures/{picture_id}"


def _person_address(person: str) -> str:
    return f"/people/{_quoted(person)}"


def _quoted(person: str) -> str:
    # In a URL a slash would name something else, however it is quoted.
    try:
        return quote(check_who(person), safe="")
    except InvalidNameError as error:
        raise RefusedError(422, _sentence(str(error))) from None


class Receiver:
    """The receiver behind an HTTP client whose base URL is the receiver's.

    Every call raises :class:`ReceiverAwayError` when the receiver, or what it needs, is away, and
    :class:`RefusedError` when it refuses the request. It has ``seconds`` for an answer, and
    ``upload_seconds`` where pictures are sent, fetched or cut.
    """

    def __init__(
        self, client: httpx.AsyncClient, *, seconds: float = 15.0, upload_seconds: float = 60.0
    ) -> None:
        self._client = client
        self._timeout = httpx.Timeout(seconds, connect=_CONNECT_SECONDS)
        self._upload_timeout = httpx.Timeout(upload_seconds, connect=_CONNECT_SECONDS)
        self._small = asyncio.Semaphore(_SMALL_AT_ONCE)

    async def pictures(
        self, *, status: str | None, person: str | None, cursor: str | None, limit: int
    ) -> PicturePage:
        """Return pictures, newest first; ``cursor`` is the ``next_cursor`` of an earlier page."""
        wanted = {"status": status, "person": person, "cursor": cursor, "limit": limit}
        answer = await self._call(
            "GET /images", "/images", params={k: v for k, v in wanted.items() if v is not None}
        )
        return _parse(PicturePage, answer)

    async def picture(self, picture_id: int) -> Picture:
        """Return one picture."""
        return _parse(Picture, await self._call("GET /images/{id}", f"/images/{picture_id}"))

    async def status(self, person: str | None = None, *, counts: bool = True) -> StatusReport:
        """Return what is away, and counts by status, of a person if one is named.

        Without ``counts``, only an older receiver returns some.
        """
        params = {"person": person} if person is not None else {}
        if not counts:
            params["counts"] = "false"
        return _parse(StatusReport, await self._call("GET /status", "/status", params=params))

    async def people(
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
        wanted = {
            "name": name,
            "person": person,
            "hidden": "true" if hidden else None,
            "cursor": cursor,
            "limit": limit,
        }
        answer = await self._call(
            "GET /people", "/people", params={k: v for k, v in wanted.items() if v is not None}
        )
        return _parse(PeoplePage, answer)

    async def person(self, who: str) -> Person:
        """Return one person, and whom one may tell apart from them again."""
        return _parse(Person, await self._call("GET /people/{name}", _person_address(who)))

    async def upload(
        self, body: AsyncIterable[bytes], *, content_type: str, size: int
    ) -> tuple[Accepted, ...]:
        """Pass a multipart body of ``size`` bytes on."""
        # In bytes: a header may hold what is not ASCII, which httpx would not encode.
        headers = {
            b"Content-Type": content_type.encode("latin-1"),
            b"Content-Length": str(size).encode(),
        }
        answer = await self._call(
            "POST /images", "/images", content=body, headers=headers, timeout=self._upload_timeout
        )
        return _parse_list(_ACCEPTED, answer, "images")

    async def retry(self, picture_id: int) -> None:
        """Send a rejected or dead picture back to waiting."""
        await self._call("POST /images/{id}/retry", f"/images/{picture_id}/retry")

    async def recognise(self, picture_id: int) -> None:
        """Have a processed picture compared with the people known now."""
        await self._call("POST /images/{id}/recognise", f"/images/{picture_id}/recognise")

    async def groups(self, *, cursor: str | None, limit: int) -> GroupPage:
        """Return groups of unknown faces, largest first."""
        params = {"limit": limit, **({"cursor": cursor} if cursor else {})}
        return _parse(GroupPage, await self._call("GET /groups", "/groups", params=params))

    async def group(self, group_id: int, *, cursor: str | None, limit: int) -> Group:
        """Return a group with some of its faces; of a merged one, the group that it is in now."""
        params = {"limit": limit, **({"cursor": cursor} if cursor else {})}
        answer = await self._call("GET /groups/{id}", f"/groups/{group_id}", params=params)
        return _parse(Group, answer)

    async def name_group(
        self, group_id: int, who: str, left_out: Iterable[FaceKey], *, another: bool
    ) -> Named:
        """Say whose a group's faces are but those that are left out.

        ``another``: somebody new, though there is somebody called so.
        """
        body = {
            "name": who,
            "another": another,
            "except": [face.model_dump() for face in left_out],
        }
        answer = await self._call(
            "PUT /groups/{id}/person",
            f"/groups/{group_id}/person",
            json=body,
            timeout=self._upload_timeout,
        )
        return _parse(Named, answer)

    async def leave_out(self, group_id: int, face: FaceKey) -> None:
        """Say that a face does not belong in a group."""
        await self._call(
            "DELETE /groups/{id}/faces/{image_id}/{index}",
            f"/groups/{group_id}/faces/{face.image_id}/{face.face_index}",
        )

    async def questions(self, *, limit: int) -> Questions:
        """Return the likeliest of the open questions who is the same."""
        params = {"limit": limit}
        return _parse(Questions, await self._call("GET /questions", "/questions", params=params))

    async def answer(self, question_id: int, answer: str) -> None:
        """Answer a question with yes, no or later; yes may name a whole group."""
        await self._call(
            "PUT /questions/{id}",
            f"/questions/{question_id}",
            json={"answer": answer},
            timeout=self._upload_timeout,
        )

    async def delete(self, picture_id: int) -> None:
        """Remove a picture and its result."""
        await self._call("DELETE /images/{id}", f"/images/{picture_id}")

    async def enrol_face(
        self,
        person: str,
        picture_id: int,
        face: int,
        *,
        insist: bool = False,
        another: bool = False,
    ) -> None:
        """Make a face of a submitted picture a known picture of a person.

        Of somebody new with ``another``, whoever else has the name.
        """
        await self._call(
            "POST /people/{name}/pictures",
            f"{_person_address(person)}/pictures",
            params=_INSIST if insist else {},
            json=_face(picture_id, face) | ({"another": True} if another else {}),
            timeout=self._upload_timeout,
        )

    async def draw_face(
        self, picture_id: int, box: Box, person: str, *, another: bool = False
    ) -> None:
        """Add a face where no machine saw one; ``person`` is who it is, empty if nobody knows.

        It is somebody new with ``another``, whoever else has the name.
        """
        await self._call(
            "POST /images/{id}/faces",
            f"/images/{picture_id}/faces",
            json={"box": asdict(box), "name": person or None, "another": another},
            timeout=self._upload_timeout,
        )

    async def strike_out_face(self, picture_id: int, face: int) -> None:
        """Say that a face is none."""
        await self._call("DELETE /images/{id}/faces/{index}", f"/images/{picture_id}/faces/{face}")

    async def restore_face(self, picture_id: int, face: int) -> None:
        """Take back that a face is none."""
        await self._call(
            "POST /images/{id}/faces/{index}/restore",
            f"/images/{picture_id}/faces/{face}/restore",
            timeout=self._upload_timeout,
        )

    async def deny(self, person: str, picture_id: int, face: int, *, insist: bool = False) -> None:
        """Say that a face is not a person's; who insists, though a hand has said that it is."""
        await self._call(
            "PUT /images/{id}/faces/{index}/denials/{name}",
            _denial(person, picture_id, face),
            params={"insist": "true"} if insist else {},
        )

    async def allow(self, person: str, picture_id: int, face: int) -> None:
        """Take back that a face is not a person's."""
        await self._call(
            "DELETE /images/{id}/faces/{index}/denials/{name}", _denial(person, picture_id, face)
        )

    async def rename(self, person: str, name: str, *, another: bool = False) -> None:
        """Give a person another name; one that somebody else has, too, with ``another``."""
        body = {"name": name} | ({"another": True} if another else {})
        await self._call("PATCH /people/{name}", _person_address(person), json=body)

    async def hide(self, person: str, *, hidden: bool) -> None:
        """Leave a person out where people are listed, or do so no more."""
        await self._call("PATCH /people/{name}", _person_address(person), json={"hidden": hidden})

    async def set_face(self, person: str, picture_id: int, face: int) -> None:
        """Let a face stand for a person."""
        await self._call(
            "PUT /people/{name}/face",
            f"{_person_address(person)}/face",
            json=_face(picture_id, face),
        )

    async def merge(self, person: str, other: str) -> None:
        """Make all that is the other's this person's."""
        await self._call(
            "POST /people/{name}/merge",
            f"{_person_address(person)}/merge",
            json={"name": other},
            timeout=self._upload_timeout,
        )

    async def take_back_merge(self, person: str, merge_id: int) -> None:
        """Tell somebody apart again who was said to be this person."""
        await self._call(
            "DELETE /people/{name}/merges/{id}",
            f"{_person_address(person)}/merges/{merge_id}",
            timeout=self._upload_timeout,
        )

    async def erase(self, person: str, *, pictures: bool) -> Erased:
        """Forget a person for good, and if wanted the pictures that show them."""
        answer = await self._call(
            "POST /people/{name}/erase",
            f"{_person_address(person)}/erase",
            json={"pictures": pictures},
            timeout=self._upload_timeout,
        )
        return _parse(Erased, answer)

    async def export(self, person: str) -> AsyncIterator[bytes]:
        """Yield all that is kept of a person, as JSON; whatever is wrong is raised at first."""
        address = f"{_person_address(person)}/export"
        with _answered("receiver GET /people/{name}/export"):
            async with self._client.stream(
                "GET", address, timeout=self._upload_timeout
            ) as response:
                if response.is_error:
                    await response.aread()
                    _check_away(response)
                    raise _refusal(response)
                async for piece in response.aiter_bytes():
                    yield piece

    async def enrol_picture(
        self,
        person: str,
        file: AsyncIterable[bytes],
        size: int,
        *,
        insist: bool = False,
        another: bool = False,
    ) -> None:
        """Make an uploaded file of ``size`` bytes a known picture of a person.

        Of somebody new with ``another``, whoever else has the name.
        """
        await self._call(
            "POST /people/{name}/pictures",
            f"{_person_address(person)}/pictures",
            params=(_INSIST if insist else {}) | ({"another": "true"} if another else {}),
            **_form_of(file, size),
            timeout=self._upload_timeout,
        )

    async def search_picture(
        self, file: AsyncIterable[bytes], size: int, *, face: int | None
    ) -> SearchResult:
        """Return stored faces that are near to one of a file of ``size`` bytes, the largest one.

        Or to that which ``face`` is.
        """
        answer = await self._call(
            "POST /search",
            "/search",
            params={} if face is None else {"face": face},
            **_form_of(file, size),
            timeout=self._upload_timeout,
        )
        return _parse(SearchResult, answer)

    async def search_face(self, picture_id: int, face: int) -> SearchResult:
        """Return stored faces that are near to one of a submitted picture."""
        asked = {"image_id": picture_id, "face_index": face}
        return _parse(SearchResult, await self._call("POST /search", "/search", json=asked))

    async def delete_person(self, person: str) -> None:
        """Forget a person and all known pictures."""
        await self._call("DELETE /people/{name}", _person_address(person))

    async def delete_known_picture(self, person: str, picture_id: int) -> None:
        """Forget one known picture."""
        await self._call(
            "DELETE /people/{name}/pictures/{id}", known_picture_address(person, picture_id)
        )

    async def small(self, address: str, if_none_match: str | None) -> tuple[bytes | None, str]:
        """Return the JPEG at an address and its tag; None for one that the browser has."""
        headers = {"If-None-Match": if_none_match} if if_none_match else {}
        async with self._small:
            answer = await self._call("GET thumbnail", address, headers=headers)
        has_it = answer.status_code == HTTPStatus.NOT_MODIFIED
        return None if has_it else answer.content, answer.headers["ETag"]

    async def _call(self, operation: str, address: str, **arguments: Any) -> httpx.Response:
        with _answered(f"receiver {operation}"):
            method = operation.partition(" ")[0]
            response = await self._client.request(
                method, address, **{"timeout": self._timeout, **arguments}
            )
            _check_away(response)
        if response.is_error:
            raise _refusal(response)
        return response


def _form_of(file: AsyncIterable[bytes], size: int) -> dict[str, Any]:
    """Return the arguments of a call that sends a form with a file of ``size`` bytes."""
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="picture"\r\n\r\n'
    ).encode()
    tail = f"\r\n--{_BOUNDARY}--\r\n".encode()

    async def body() -> AsyncIterator[bytes]:
        yield head
        async for piece in file:
            yield piece
        yield tail

    return {
        "content": body(),
        "headers": {
            "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}",
            "Content-Length": str(len(head) + size + len(tail)),
        },
    }


def _face(picture_id: int, face: int) -> dict[str, int | bool]:
    return {"image_id": picture_id, "face_index": face}


def _denial(person: str, picture_id: int, face: int) -> str:
    return f"/images/{picture_id}/faces/{face}/denials/{_quoted(person)}"


def _check_away(response: httpx.Response) -> None:
    # A busy receiver says nothing about what it was asked for.
    if response.is_server_error or response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        raise NotNowError(_problem(response)[0])


def _refusal(response: httpx.Response) -> RefusedError:
    message, can_insist = _problem(response)
    return RefusedError(response.status_code, message, can_insist=can_insist)


@contextmanager
def _answered(operation: str) -> Iterator[None]:
    """Observe a call and turn a missing answer into ReceiverAwayError."""
    with metrics.observe(operation):
        try:
            yield
        except httpx.HTTPError as error:
            raise ReceiverAwayError(str(error) or type(error).__name__) from error


def _problem(response: httpx.Response) -> tuple[str, bool]:
    """Return what a problem document (RFC 9457) says, for people, and whether it is a doubt."""
    try:
        problem = response.json()
        text = str(problem.get("detail") or problem["title"])
        errors = problem.get("errors") or ()
        details = [str(error["detail"]) for error in errors if error.get("pointer") != _DOUBT]
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"The receiver answered {response.status_code} without a reason.", False
    message = explain_problem(
        " ".join(_sentence(part) for part in (text, *(d for d in details if d not in text))),
        response.headers,
    )
    return message, len(details) < len(errors)


def explain_problem(detail: str, headers: Mapping[str, str] | None) -> str:
    """Return what is wrong as a sentence, and when to try again."""
    wait = (headers or {}).get("Retry-After")
    return f"{_sentence(detail)} Try again in {wait} s." if wait else _sentence(detail)


def _sentence(text: str) -> str:
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _parse(model: type[M], response: httpx.Response) -> M:
    return _validated(lambda: model.model_validate_json(response.content))


def _parse_list(adapter: TypeAdapter[T], response: httpx.Response, key: str) -> T:
    return _validated(lambda: adapter.validate_python(response.json()[key]))


def _validated(parse: Callable[[], T]) -> T:
    try:
        return parse()
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ReceiverAwayError(f"gave an answer that is not understood: {reason}") from error
