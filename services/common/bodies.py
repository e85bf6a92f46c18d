"""Receives request bodies: the large ones on disk, and never more than is allowed.

What is wrong with a body is raised as ``HTTPException``: 413 when it is too large, 422 when it is
no form that is taken here, 503 when there is no disk space for it.
"""

import asyncio
import io
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from http import HTTPStatus
from typing import IO, Any, Final, cast

import structlog
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from services.common.door import RETRY_AFTER

log = structlog.get_logger(__name__)

MULTIPART: Final = "multipart/form-data"
MULTIPART_OVERHEAD: Final = 64 * 1024
"""Room for boundaries, part headers and fields around files."""

_MEMORY_BYTES: Final = 128 * 1024
"""Of one body; what is larger goes to disk in pieces of this size."""

_WHOLE_AT_ONCE: Final = 2
"""Bodies that were too large for memory and are needed there, a few MB of JSON each."""

_MAX_FIELDS: Final = 16
_MAX_FIELD_BYTES: Final = 2 * 1024
"""Of a field that is no file: a person's name at most."""


class Spools:
    """Disk space for all bodies together."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self.whole = asyncio.Semaphore(_WHOLE_AT_ONCE)
        """To be held while a body that was too large for memory is in memory."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Spool"]:
        """Hold a spool, which is empty, until the end of the block."""
        spool = Spool(self)
        try:
            yield spool
        finally:
            await spool.close()

    def take(self, size: int) -> None:
        """Reserve space, or raise ``HTTPException`` with 503."""
        if size > self._left:
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "too many uploads arrive at once, there is no space for another",
                headers=RETRY_AFTER,
            )
        self._left -= size

    def give(self, size: int) -> None:
        """Return space."""
        self._left += size


class Spool:
    """Bytes that arrive: in memory while they are few, then in a file that has no name.

    One task at a time may use it.
    """

    def __init__(self, spools: Spools) -> None:
        self._spools = spools
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        # A task that is cancelled leaves its thread behind, which must not find the file closed,
        # or its number given to a connection.
        self._lock = threading.Lock()
        self._on_disk = 0
        self._reserved = 0

    @property
    def size(self) -> int:
        """How many bytes were written."""
        return self._on_disk + len(self._memory)

    async def write(self, data: bytes) -> None:
        """Append; raises ``HTTPException`` with 503 when there is no space."""
        self._memory += data
        if len(self._memory) > _MEMORY_BYTES:
            await self._flush()

    async def read(self, start: int, size: int) -> bytes:
        """Return bytes that were written."""
        if self._file is None:
            return bytes(self._memory[start : start + size])
        await self._flush()
        return await asyncio.to_thread(self._read, start, size)

    async def pieces(self, start: int = 0, size: int | None = None) -> AsyncIterator[bytes]:
        """Yield ``size`` bytes in order, or all that follow."""
        end = self.size if size is None else start + size
        for at in range(start, end, _MEMORY_BYTES):
            yield await self.read(at, min(_MEMORY_BYTES, end - at))

    async def close(self) -> None:
        """Give memory and space back."""
        self._memory = bytearray()
        if self._reserved:
            try:
                await asyncio.to_thread(self._close)
            finally:
                self._spools.give(self._reserved)

    async def _flush(self) -> None:
        if not self._memory:
            return
        data, self._memory = self._memory, bytearray()
        self._spools.take(len(data))
        self._reserved += len(data)
        try:
            await asyncio.to_thread(self._append, data)
        except OSError as error:
            log.warning("cannot keep a body on disk", error=str(error))
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the disk on which uploads arrive is full or broken",
                headers=RETRY_AFTER,
            ) from None
        self._on_disk += len(data)

    def _append(self, data: bytearray) -> None:
        with self._lock:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115, close() closes it
            self._file.seek(0, os.SEEK_END)
            self._file.write(data)
            self._file.flush()

    def _read(self, start: int, size: int) -> bytes:
        with self._lock:
            file = cast("IO[bytes]", self._file)
            file.seek(start)
            return file.read(size)

    def _close(self) -> None:
        with self._lock:
            if self._file:
                self._file.close()


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
        async with spools.whole if spool.size > _MEMORY_BYTES else nullcontext():
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
    return Request(request.scope, _limit(request.receive, max_bytes))


def too_large(what: str, limit: int) -> HTTPException:
    """Return the error for what has more bytes than its limit."""
    return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{what}, the limit is {limit} bytes")


def _limit(inner: Callable[[], Awaitable[Message]], max_bytes: int) -> Any:
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await inner()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise too_large("the body goes on", max_bytes)
        return message

    return receive_limited


class _Parser(MultiPartParser):
    """Starlette's parser, which would open a file for each part."""

    def __init__(self, spool: Spool, *args: Any, **named: Any) -> None:
        super().__init__(*args, max_part_size=_MAX_FIELD_BYTES, **named)
        self._spool = spool

    def on_headers_finished(self) -> None:
        """Begin a part."""
        super().on_headers_finished()
        if self._current_part.file:
            self._current_part.file = Part(self._spool, self._current_part.file)


class Part(UploadFile):
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
