"""Sends picture files, never more than a few at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.receiver.domain import media_type

AT_ONCE: Final = 8
"""Files of up to 20 MiB in memory; further requests wait."""

_PIECE_BYTES: Final = 256 * 1024
_SECONDS: Final = 60.0
"""A client that takes longer than this for one file keeps others from theirs, and is cut off."""


class Files:
    """Makes responses of which only a few are loaded and sent at a time."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(AT_ONCE)

    def response(self, load: Callable[[], Awaitable[bytes]]) -> Response:
        """Return a response that loads its content when it is its turn."""
        return _File(self._turn, load)


class _File(Response):
    def __init__(self, turn: asyncio.Semaphore, load: Callable[[], Awaitable[bytes]]) -> None:
        super().__init__()
        self._turn = turn
        self._load = load

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        async with self._turn:
            content = await self._load()
            self.init_headers(
                {
                    "Content-Type": media_type(content),
                    "Content-Length": str(len(content)),
                    "X-Content-Type-Options": "nosniff",
                    # Opened by itself, a file runs nothing, whatever it is.
                    "Content-Security-Policy": "default-src 'none'; sandbox",
                }
            )
            # The server closes a connection whose response is not complete.
            with suppress(TimeoutError):
                async with asyncio.timeout(_SECONDS):
                    await self._send(content, send)

    async def _send(self, content: bytes, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        # In pieces, because the server waits for a slow client only between them.
        for start in range(0, len(content), _PIECE_BYTES):
            piece = content[start : start + _PIECE_BYTES]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
