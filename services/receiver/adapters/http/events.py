"""Server-sent events: a response that goes on for as long as its client listens."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from typing import Annotated, Final

import orjson
from fastapi import FastAPI, Header
from fastapi.sse import format_sse_event
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.common.errors import DatabaseUnavailableError
from services.common.events import Position
from services.common.lifecycle import Lifecycle
from services.receiver.adapters.http import openapi
from services.receiver.adapters.http.guard import needs
from services.receiver.adapters.http.views import change_view
from services.receiver.domain.access import AccessScope
from services.receiver.domain.changes import Change
from services.receiver.service.following import Following, Listener

MEDIA_TYPE: Final = "text/event-stream"

_QUIET_SECONDS: Final = 15.0
"""Load balancers close what is silent for a minute."""

_ADMIT_SECONDS: Final = 3.0
"""So long after its key or session was revoked a stream ends at the latest."""

_RETRY_MS: Final = 2000
"""After so long a client is to come again whose stream has ended."""

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx, and those that follow it, would hold events back
}


def write(changes: Sequence[Change]) -> bytes:
    """Return changes as they are sent."""
    return b"".join(
        format_sse_event(
            event=change.kind,
            data_str=orjson.dumps(change_view(change)).decode(),
            id=str(change.position),
        )
        for change in changes
    )


def add_events(app: FastAPI, following: Following, lifecycle: Lifecycle) -> None:
    """Add the route."""

    @app.get(
        "/events",
        summary="Listen to what changes",
        description="Server-sent events: image when a result is there, an image is to be"
        " recognised again, its names are others or it is gone; person when somebody's name or"
        " known pictures are others, or they are gone. data has the id, and the image's status or"
        " the person's name as it is when the event is sent; null for what is gone. An event may"
        " come twice. The stream begins with an id: what is committed after that comes. With a"
        " Last-Event-ID it goes on from there; the event reset says that this cannot be, as after"
        " an hour, and that everything is to be loaded anew. A stream that ends, since its client"
        " does not keep up or the receiver stops, goes on with the last id.",
        response_class=Response,
        responses={
            200: {"description": "The stream.", "content": openapi.EVENTS},
            **openapi.errors(422),
        },
    )
    @needs(AccessScope.READ)
    async def follow(
        last_event_id: Annotated[
            str | None, Header(description="The id that came last of an earlier stream.")
        ] = None,
    ) -> Response:
        return EventStream(following, lifecycle, last_event_id)


class EventStream(Response):
    """What changes from now on, or since the client's ``Last-Event-ID``.

    It ends when the process drains, so that the client goes on at another one, and soon after the
    client's key or session was revoked.
    """

    media_type = MEDIA_TYPE

    def __init__(self, following: Following, lifecycle: Lifecycle, last_id: str | None) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._following = following
        self._lifecycle = lifecycle
        self._last_id = last_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what there is until the client goes, or the process drains."""
        async with self._following.listen() as listener:
            tasks = [
                asyncio.create_task(_gone(receive)),
                asyncio.create_task(self._lifecycle.wait_draining()),
                asyncio.create_task(_refused(scope)),
            ]
            for task in tasks:
                task.add_done_callback(lambda _: listener.end())
            try:
                await send(
                    {
                        "type": "http.response.start",
                        "status": self.status_code,
                        "headers": self.raw_headers,
                    }
                )
                async for piece in self._pieces(listener):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            finally:
                for task in tasks:
                    task.cancel()

    async def _pieces(self, listener: Listener) -> AsyncIterator[bytes]:
        # An id without data is no event, but where to go on for a client that saw none yet.
        start = str(listener.start)
        if self._last_id is None:
            yield format_sse_event(id=start, retry=_RETRY_MS)
        else:
            yield format_sse_event(retry=_RETRY_MS)
            try:
                async for missed in self._missed(self._last_id):
                    yield missed or format_sse_event(event="reset", data_str="{}", id=start)
            except DatabaseUnavailableError:
                return  # the client comes again with the last id that it got
        while True:
            try:
                async with asyncio.timeout(_QUIET_SECONDS):
                    piece = await listener.next()
            except TimeoutError:
                if not listener.knows_all:
                    continue
                piece = format_sse_event(comment="", id=str(self._following.position))
            if piece is None:
                return
            yield piece

    async def _missed(self, last_id: str) -> AsyncIterator[bytes | None]:
        if (since := Position.parse(last_id)) is None:
            yield None
        else:
            async for page in self._following.missed(since):
                yield page


async def _refused(scope: Scope) -> None:
    """Return when the client may listen no longer."""
    loop = asyncio.get_running_loop()
    status = None
    # A database that is away says nothing about anybody.
    while status in (None, HTTPStatus.SERVICE_UNAVAILABLE):
        # All streams look at the same moment, and so by one query.
        await asyncio.sleep(_ADMIT_SECONDS - loop.time() % _ADMIT_SECONDS)
        try:
            await scope["admit_again"]()
        except HTTPException as refusal:
            status = refusal.status_code


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
