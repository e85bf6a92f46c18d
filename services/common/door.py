"""Lets requests in and counts them: those whose body arrives in time, as many as can be served.

A request is counted from the moment its body is there until its answer begins, so neither one
that is sent slowly nor one that is read slowly takes a place from the others.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common import metrics
from services.common.hosts import AllowedHosts
from services.common.lifecycle import Lifecycle
from services.common.probes import PROBES
from services.common.settings import HttpSettings

RETRY_AFTER: Final = {"Retry-After": "1"}

_BODY_HEADERS: Final = frozenset({b"content-length", b"transfer-encoding", b"content-encoding"})

_SLOW_START_SECONDS: Final = 20.0
_MIN_BYTES_A_SECOND: Final = 4 * 1024
"""Of a body that takes longer than that start; slower ones would only hold a connection."""


class Room:
    """How many requests of a kind are served at once; ``kind`` is what the refusal calls them.

    Their endpoints read the body, all of it, if ``takes_body``; else it is not waited for.
    """

    def __init__(self, kind: str, limit: int, *, takes_body: bool) -> None:
        self.kind = kind
        self.limit = limit
        self.takes_body = takes_body
        self.taken = 0

    @property
    def is_full(self) -> bool:
        """Whether there is no place."""
        return self.taken >= self.limit

    def refusal(self) -> HTTPException:
        """Return what a request is told that finds no place."""
        return HTTPException(
            HTTPStatus.TOO_MANY_REQUESTS,
            f"too many {self.kind} at once, {self.limit} are being served",
            headers=RETRY_AFTER,
        )

    def check(self) -> None:
        """Raise the refusal when there is no place."""
        if self.is_full:
            raise self.refusal()


class Door:
    """ASGI middleware: raises ``HTTPException`` where the application reads a body.

    408 when the body comes too slowly, 415 when it is compressed, 501 when it is encoded for
    its transfer in a way that no client uses, 429 when the ``room`` of the request is full, and
    what ``room`` and ``admit`` raise, of which the latter knows whether the caller may; before
    all that, 421 when the request is for a host that is none of ours. What is refused before
    the application is asked gets the response that ``refuse`` makes. Probes go in always, or a
    busy process would look like a dead one. All others are counted by their route, and their
    answers say while ``lifecycle`` drains that the connection ends.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        room: Callable[[Scope], Room],
        admit: Callable[[Scope], Awaitable[None]],
        refuse: Callable[[Scope, HTTPException], Response],
        settings: HttpSettings,
        lifecycle: Lifecycle,
    ) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._room = room
        self._admit = admit
        self._refuse = refuse
        self._settings = settings
        self._hosts = AllowedHosts(settings.allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        with _observe(scope, send, self._lifecycle) as observed_send:
            await self._let_in(scope, receive, observed_send)

    def _check_host(self, scope: Scope) -> None:
        if reason := self._hosts.refusal(scope["headers"]):
            raise HTTPException(HTTPStatus.MISDIRECTED_REQUEST, reason)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        inside = False

        def enter() -> None:
            nonlocal inside
            room.check()
            room.taken += 1
            inside = True

        def leave() -> None:
            nonlocal inside
            if inside:
                room.taken -= 1
                inside = False

        async def leaving_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                leave()
            await send(message)

        try:
            self._check_host(scope)
            _check_path(scope)
            room = self._room(scope)
            follows = _has_body(scope)
            room.check()  # rather now than when all of a body was sent for nothing
            await self._admit(scope)
            if follows and room.takes_body:
                receive = _InTime(receive, enter, self._settings)
            else:
                enter()
                receive = _InTime(receive, lambda: None, self._settings) if follows else receive
        except HTTPException as error:
            await self._refuse(scope, error)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, leaving_send)
        finally:
            leave()


@contextmanager
def _observe(scope: Scope, send: Send, lifecycle: Lifecycle) -> Iterator[Send]:
    """Record a request's RED metrics; give a ``send`` that says ``Connection: close`` in a drain.

    A context and no middleware, so that a stack trace is shorter by one for every request.
    """
    start = time.perf_counter()
    status = 500

    async def observed_send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            if lifecycle.draining:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
        await send(message)

    try:
        yield observed_send
    finally:
        route = scope.get("route")
        # Unknown paths and methods share one name, or a scanner would make a metric per guess.
        if route and status != HTTPStatus.METHOD_NOT_ALLOWED:
            operation = f"{scope['method']} {route.path_format}"
        else:
            operation = "unmatched"
        metrics.record(
            operation,
            time.perf_counter() - start,
            error=status >= HTTPStatus.INTERNAL_SERVER_ERROR,
        )


class _InTime:
    """An ASGI ``receive`` with deadlines, which calls ``complete`` once the body is there."""

    def __init__(
        self, receive: Receive, complete: Callable[[], None], settings: HttpSettings
    ) -> None:
        self._receive = receive
        self._complete = complete
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._received = 0
        self._done = False

    async def __call__(self) -> Message:
        if self._done:
            return await self._receive()
        slow = _SLOW_START_SECONDS + self._received / _MIN_BYTES_A_SECOND
        try:
            async with asyncio.timeout_at(
                min(
                    self._loop.time() + self._settings.body_idle_seconds,
                    self._start + min(self._settings.body_seconds, slow),
                )
            ):
                message = await self._receive()
        except TimeoutError:
            seconds = self._loop.time() - self._start
            raise HTTPException(
                HTTPStatus.REQUEST_TIMEOUT,
                f"what was sent came too slowly: {self._received} bytes in {seconds:.0f} s",
                headers={"Connection": "close"},
            ) from None
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            if not message.get("more_body"):
                self._done = True
                self._complete()
        return message


def _has_body(scope: Scope) -> bool:
    """Tell whether a body follows, or raise ``HTTPException`` when nobody could read it."""
    follows = False
    for name, value in scope["headers"]:
        if name not in _BODY_HEADERS:
            continue
        if name == b"content-length":
            follows = follows or value != b"0"
        elif name == b"content-encoding":
            if value.strip().lower() not in (b"", b"identity"):
                raise HTTPException(
                    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                    f"send the body as it is, not with Content-Encoding {_text(value)}",
                    headers={"Accept-Encoding": "identity"},
                )
        elif value.strip().lower() != b"chunked":
            raise HTTPException(
                HTTPStatus.NOT_IMPLEMENTED,
                f"Transfer-Encoding {_text(value)} is not known here, send it chunked",
            )
        else:
            follows = True
    return follows


def _check_path(scope: Scope) -> None:
    # A route's expression takes a newline at the end of a path, where nothing else expects one.
    if scope["path"].endswith("\n"):
        raise HTTPException(HTTPStatus.NOT_FOUND, "there is nothing at this address")


def _text(value: bytes) -> str:
    return repr(value[:50].decode("latin-1"))
