"""Sends picture files, of which only so many bytes are in memory at a time.

A file that the client has already is not read. Others are read whole, not streamed, so that a slow
client holds no connection to the object store. Range is ignored, as HTTP allows: whoever shows a
picture wants all of it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.common.picture_formats import media_type

LOADED_AT_ONCE: Final = 4
"""Files of up to 20 MiB whose size is not known yet; further requests wait."""

SENDING_BYTES: Final = 128 * 1024 * 1024
"""Of files that are being sent: some sixty of 2 MB."""

CACHING: Final = "private, no-cache"
"""Somebody's picture, which may be deleted: kept by its client alone, and asked for each time."""

Load = Callable[[], Awaitable[tuple[bytes, str]]]
"""Returns a file and its tag, which changes with it."""

_PIECE_BYTES: Final = 256 * 1024
_SECONDS: Final = 60.0
"""A client that takes longer than this for one file is cut off."""

_PATIENCE_SECONDS: Final = 3.0
"""When others wait for memory, the client that has been at it longest is cut off after this."""


async def unchanged(
    if_none_match: str | None, find_tag: Callable[[], Awaitable[str | None]]
) -> Response | None:
    """Return the response to a client that has the file already, None for all others.

    ``if_none_match`` is the client's header; ``find_tag`` returns the file's tag without reading
    it, None when there is no file.
    """
    if if_none_match is None or (tag := await find_tag()) is None:
        return None
    known = {etag.strip().removeprefix("W/") for etag in if_none_match.split(",")}
    if known.isdisjoint({"*", _etag(tag).removeprefix("W/")}):
        return None
    headers = {"ETag": _etag(tag), "Cache-Control": CACHING}
    return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)


class FileResponses:
    """Makes responses that load their content when it is their turn.

    How slowly some clients read does not keep others from their files for longer than
    ``patience`` seconds.
    """

    def __init__(
        self,
        *,
        loaded_at_once: int = LOADED_AT_ONCE,
        sending_bytes: int = SENDING_BYTES,
        patience: float = _PATIENCE_SECONDS,
    ) -> None:
        self._patience = patience
        self._loading = asyncio.Semaphore(loaded_at_once)
        self._left = sending_bytes
        self._sending: dict[asyncio.Timeout, float] = {}
        self._changed = asyncio.Event()

    def response(self, load: Load) -> Response:
        """Return a response with what ``load`` returns."""
        return _FileResponse(self, load)

    @asynccontextmanager
    async def loaded(self, load: Load) -> AsyncIterator[tuple[bytes, str]]:
        """Hold a file in memory for as long as the block takes, or until others need the memory."""
        async with self._loading:
            content, tag = await load()
            while len(content) > self._left:
                await self._wait_for_memory()
            self._left -= len(content)
        loop = asyncio.get_running_loop()
        try:
            # The server closes a connection whose response is not complete.
            with suppress(TimeoutError):
                async with asyncio.timeout(_SECONDS) as limit:
                    self._sending[limit] = loop.time()
                    yield content, tag
        finally:
            del self._sending[limit]
            self._left += len(content)
            self._changed.set()

    async def _wait_for_memory(self) -> None:
        limit, since = next(iter(self._sending.items()))
        if not limit.expired():
            limit.reschedule(max(since + self._patience, asyncio.get_running_loop().time()))
        self._changed.clear()
        await self._changed.wait()


def _etag(tag: str) -> str:
    # A store without tags has the time of a change instead.
    return tag if tag.endswith('"') else f'"{tag}"'


class _FileResponse(Response):
    def __init__(self, files: FileResponses, load: Load) -> None:
        super().__init__()
        self._files = files
        self._load = load

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        async with self._files.loaded(self._load) as (content, tag):
            self.init_headers(
                {
                    "Content-Type": media_type(content),
                    "Content-Length": str(len(content)),
                    "ETag": _etag(tag),
                    "Cache-Control": CACHING,
                    "X-Content-Type-Options": "nosniff",
                    # Opened by itself, a file runs nothing, whatever it is.
                    "Content-Security-Policy": "default-src 'none'; sandbox",
                }
            )
            await self._send(content, send)

    async def _send(self, content: bytes, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        # In pieces, because the server waits for a slow client only between them.
        for start in range(0, len(content), _PIECE_BYTES):
            piece = content[start : start + _PIECE_BYTES]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
