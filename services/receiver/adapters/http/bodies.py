"""Reads request bodies, never more of them than is allowed."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from services.common.images import MAX_PICTURE_BYTES
from services.receiver.adapters.http.problems import faults_of
from services.receiver.domain import InvalidError

M = TypeVar("M", bound=BaseModel)

MULTIPART_OVERHEAD: Final = 64 * 1024
"""Room for boundaries and part headers around files."""

_MAX_FIELDS: Final = 100
"""Fields that are no files; they are ignored."""

_JSON: Final = "application/json"
_FORM: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/form-data"


def media_type(request: Request) -> str:
    """Return the media type without parameters, in lower case; empty when there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json(
    request: Request, model: type[M], *, max_bytes: int, lenient: bool = False
) -> M:
    """Parse a JSON body.

    ``lenient`` takes JSON that is not declared as such: what ``curl -d`` sends. Raises
    :class:`InvalidError`, or ``HTTPException`` with 413 or 415.
    """
    kind = media_type(request)
    if kind != _JSON and not (lenient and kind in ("", _FORM)):
        raise _unsupported(kind, _JSON)
    body = await _read(request, max_bytes)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise InvalidError("the body is not what this endpoint takes", faults_of(error)) from None


async def _read(request: Request, max_bytes: int) -> bytes:
    receive = _limited(request, max_bytes)
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body
    chunks = [body]
    while message.get("more_body"):
        message = await receive()
        chunks.append(message.get("body", b""))
    return b"".join(chunks)


@asynccontextmanager
async def multipart(request: Request, *, max_files: int, max_bytes: int) -> AsyncIterator[FormData]:
    """Parse a multipart body; files are on disk when large, and gone at the end of the block.

    Raises as :func:`read_json` does.
    """
    kind = media_type(request)
    if kind != MULTIPART:
        raise _unsupported(kind, MULTIPART)
    limited = Request(request.scope, _limited(request, max_bytes))
    try:
        form = await limited.form(max_files=max_files, max_fields=_MAX_FIELDS)
    except HTTPException as error:
        if error.status_code != HTTPStatus.BAD_REQUEST:
            raise
        raise InvalidError(f"the multipart body is wrong: {error.detail}") from None
    try:
        yield form
    finally:
        await form.close()


def check_file(part: object, pointer: str) -> UploadFile:
    """Return the part of a form if it is a file of an allowed size."""
    if not isinstance(part, UploadFile):
        raise InvalidError(f"{pointer[1:]} must be a file: its part needs a filename")
    if not part.size:
        raise InvalidError(f"file {part.filename!r} is empty")
    if part.size > MAX_PICTURE_BYTES:
        raise _too_large(f"file {part.filename!r} has {part.size} bytes", MAX_PICTURE_BYTES)
    return part


def _limited(request: Request, max_bytes: int) -> Callable[[], Awaitable[Message]]:
    """Return the request's ``receive``, which raises when the body grows over the limit."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise _too_large(f"the body has {declared} bytes", max_bytes)
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return message
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise _too_large("the body goes on", max_bytes)
        return message

    return receive


def _too_large(what: str, limit: int) -> HTTPException:
    return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{what}, the limit is {limit} bytes")


def _unsupported(kind: str, wanted: str) -> HTTPException:
    return HTTPException(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"send {wanted} and say so in Content-Type, not {kind or 'nothing'}",
    )
