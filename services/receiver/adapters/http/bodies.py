"""Reads request bodies, never more of them than is allowed."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from services.common import bodies
from services.common.bodies import MULTIPART
from services.common.picture_formats import MAX_PICTURE_BYTES
from services.common.spools import Spools
from services.receiver.adapters.http.problems import faults_of
from services.receiver.domain.errors import InvalidError

M = TypeVar("M", bound=BaseModel)

MAX_SMALL_JSON: Final = 64 * 1024
"""Of a body that names a person or a face."""

_JSON: Final = "application/json"
_FORM: Final = "application/x-www-form-urlencoded"


def media_type(request: Request) -> str:
    """Return the media type without parameters, in lower case; empty when there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json(
    request: Request, model: type[M], spools: Spools, *, max_bytes: int, lenient: bool = False
) -> M:
    """Parse a JSON body.

    ``lenient`` takes JSON that is not declared as such: what ``curl -d`` sends. Raises
    :class:`InvalidError`, or ``HTTPException`` with 413 or 415.
    """
    kind = media_type(request)
    if kind != _JSON and not (lenient and kind in ("", _FORM)):
        raise _unsupported(kind, _JSON)
    async with bodies.whole(request, spools, max_bytes=max_bytes) as body:
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            faults = faults_of(error)
            what = faults[0].detail if len(faults) == 1 else f"{len(faults)} parts of it are wrong"
            raise InvalidError(
                f"the body is not what this endpoint takes, nothing was done: {what}", faults
            ) from None


@asynccontextmanager
async def multipart(
    request: Request, spools: Spools, *, max_files: int, max_bytes: int
) -> AsyncIterator[FormData]:
    """Parse a multipart body; its files are gone at the end of the block.

    Raises as :func:`read_json` does.
    """
    kind = media_type(request)
    if kind != MULTIPART:
        raise _unsupported(kind, MULTIPART)
    async with bodies.multipart(request, spools, max_files=max_files, max_bytes=max_bytes) as form:
        yield form


def check_file(part: object, pointer: str) -> UploadFile:
    """Return the part of a form if it is a file of an allowed size."""
    if not isinstance(part, UploadFile):
        raise InvalidError(f"{pointer[1:]} must be a file: its part needs a filename")
    if not part.size:
        raise InvalidError(f"file {part.filename!r} is empty")
    if part.size > MAX_PICTURE_BYTES:
        raise bodies.too_large(f"file {part.filename!r} has {part.size} bytes", MAX_PICTURE_BYTES)
    return part


def _unsupported(kind: str, wanted: str) -> HTTPException:
    return HTTPException(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"send {wanted} and say so in Content-Type, not {kind or 'nothing'}",
    )


def reader(file: UploadFile) -> Callable[[], Awaitable[bytes]]:
    """Return what reads the whole file."""

    async def read() -> bytes:
        await file.seek(0)
        return await file.read()

    return read
