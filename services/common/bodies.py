"""Receives request bodies: the large ones on disk, and never more than is allowed.

What is wrong with a body is raised as ``HTTPException``: 413 when it is too large, 422 when it is
no form that is taken here, 503 when there is no disk space for it.
"""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from http import HTTPStatus
from typing import Any, Final

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from services.common.spools import MEMORY_BYTES, Spool, Spools

MULTIPART: Final = "multipart/form-data"
MULTIPART_OVERHEAD: Final = 64 * 1024
"""Room for boundaries, part headers and fields around files."""

_MAX_FIELDS: Final = 16
_MAX_FIELD_BYTES: Final = 2 * 1024
"""Of a field that is no file: a person's name at most."""


@asynccontextmanager
async def whole(request: Request, spools: Spools, *, max_bytes: int) -> AsyncIterator[bytes]:
    """Hold a body in memory until the end of the block: of the large ones, few at a time."""
    inner = limited(request, max_bytes)
    message = await inner.receive()
    if not message.get("more_body"):
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        yield message.get("body", b"")
        return
    async with spools.open() as spool:
        await spool.write(message.get("body", b""))
        async for piece in inner.stream():
            await spool.write(piece)
        async with spools.whole if spool.size > MEMORY_BYTES else nullcontext():
            yield await spool.read(0, spool.size)


async def receive(request: Request, spool: Spool, *, max_bytes: int) -> None:
    """Write a body into a spool."""
    async for piece in limited(request, max_bytes).stream():
        await spool.write(piece)


@asynccontextmanager
async def multipart(
    request: Request, spools: Spools, *, max_files: int, max_bytes: int
) -> AsyncIterator[FormData]:
    """Parse a multipart body; its files are gone at the end of the block."""
    async with spools.open() as spool:
        whole = limited(request, max_bytes)
        parser = _Parser(
            spool, whole.headers, whole.stream(), max_files=max_files, max_fields=_MAX_FIELDS
        )
        try:
            form = await parser.parse()
        except (MultiPartException, KeyError) as error:
            reason = error.message if isinstance(error, MultiPartException) else "no Content-Type"
            raise HTTPException(
                HTTPStatus.UNPROCESSABLE_ENTITY, f"the multipart body is wrong: {reason}"
            ) from None
        yield form


def limited(request: Request, max_bytes: int) -> Request:
    """Return the same request, which raises when its body grows over the limit."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large(f"the body has {declared} bytes", max_bytes)
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise too_large("the body goes on", max_bytes)
        return message

    return Request(request.scope, receive_limited)


def too_large(what: str, limit: int) -> HTTPException:
    """Return the error for what has more bytes than its limit."""
    return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{what}, the limit is {limit} bytes")


class _Parser(MultiPartParser):
    """Starlette's parser, which would open a file for each part."""

    def __init__(self, spool: Spool, *args: Any, **named: Any) -> None:
        super().__init__(*args, max_part_size=_MAX_FIELD_BYTES, **named)
        self._spool = spool

    def on_headers_finished(self) -> None:
        """Begin a part."""
        super().on_headers_finished()
        if self._current_part.file:
            self._current_part.file = FilePart(self._spool, self._current_part.file)


class FilePart(UploadFile):
    """A file of a form: a section of the spool that all files of the form share."""

    def __init__(self, spool: Spool, plain: UploadFile) -> None:
        plain.file.close()
        super().__init__(io.BytesIO(), size=0, filename=plain.filename, headers=plain.headers)
        self._spool = spool
        self._start: int | None = None

    async def write(self, data: bytes) -> None:
        """Append, while no other part has begun."""
        if self._start is None:
            self._start = self._spool.size
        await self._spool.write(data)
        self.size = (self.size or 0) + len(data)

    async def seek(self, offset: int) -> None:
        """Do nothing: it is always read from the start."""

    def pieces(self) -> AsyncIterator[bytes]:
        """Yield all of it in order."""
        return self._spool.pieces(self._start or 0, self.size)

    async def read(self, size: int = -1) -> bytes:
        """Return all of it."""
        return await self._spool.read(self._start or 0, (self.size or 0) if size < 0 else size)
