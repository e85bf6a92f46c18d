"""Submitted pictures at the receiver."""

import asyncio
from collections.abc import AsyncIterable
from http import HTTPStatus
from typing import Final

from services.frontend.adapters.receiver.connection import ReceiverConnection
from services.frontend.domain.pictures import AcceptedList, PicturePage, SubmittedPicture

_SMALL_AT_ONCE: Final = 32
"""Connections that wait for small pictures, so that some are left for the pages."""


class PicturesApi:
    """Operations on submitted pictures; errors as :class:`ReceiverConnection` says."""

    def __init__(self, connection: ReceiverConnection) -> None:
        self._connection = connection
        self._small = asyncio.Semaphore(_SMALL_AT_ONCE)

    async def page(
        self, *, status: str | None, person: str | None, cursor: str | None, limit: int
    ) -> PicturePage:
        """Return pictures, newest first; ``cursor`` is the ``next_cursor`` of an earlier page."""
        params = {"status": status, "person": person, "cursor": cursor, "limit": limit}
        return await self._connection.read(PicturePage, "GET /images", params=params)

    async def get(self, picture_id: int) -> SubmittedPicture:
        """Return one picture."""
        return await self._connection.read(SubmittedPicture, "GET /images/{id}", picture_id)

    async def upload(
        self, body: AsyncIterable[bytes], *, content_type: str, size: int
    ) -> AcceptedList:
        """Pass a multipart body of ``size`` bytes on."""
        # In bytes: a header may hold what is not ASCII, which httpx would not encode.
        headers = {
            b"Content-Type": content_type.encode("latin-1"),
            b"Content-Length": str(size).encode(),
        }
        return await self._connection.read(
            AcceptedList, "POST /images", content=body, headers=headers, slow=True
        )

    async def retry(self, picture_id: int) -> None:
        """Send a rejected or dead picture back to waiting."""
        await self._connection.call("POST /images/{id}/retry", picture_id)

    async def recognise(self, picture_id: int) -> None:
        """Have a processed picture compared with the people known now."""
        await self._connection.call("POST /images/{id}/recognise", picture_id)

    async def delete(self, picture_id: int) -> None:
        """Remove a picture and its result."""
        await self._connection.call("DELETE /images/{id}", picture_id)

    async def small(
        self, operation: str, *parts: str | int, if_none_match: str | None
    ) -> tuple[bytes | None, str]:
        """Return the JPEG that answers an operation and its tag; None for one the browser has.

        Whole, not as a stream: it has some tens of KB, and a browser that reads slowly should hold
        none of the few connections.
        """
        headers = {"If-None-Match": if_none_match} if if_none_match else {}
        async with self._small:
            answer = await self._connection.call(operation, *parts, headers=headers)
        has_it = answer.status_code == HTTPStatus.NOT_MODIFIED
        return None if has_it else answer.content, answer.headers["ETag"]
