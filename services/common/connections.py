"""Bounds on what a client may do with a connection, where uvicorn has none.

A connection waits for its client in three ways, and each has an end:

- for the head of a request, for ``head_seconds``, and of a limited size;
- for the rest of a body that is answered already, such as one that is too large, for
  ``_REST_SECONDS``: a client that is cut off while it sends never sees the answer;
- for the client to read what was written, for ``_READ_SECONDS``, and all clients together leave
  no more than ``_MAX_UNREAD_BYTES``.

How long the body of a request that is not answered may take, :mod:`services.common.door` says.

A request that the server has no place for is answered here, as soon as its head is there: to make
a task and an ASGI scope for each would take the time of those that have a place. Nor is everything
read at once that has come: what is served needs some turns of the event loop, each as long as all
that is read in it.
"""

import asyncio
import json
import re
from collections import deque
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, Final, cast

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES: Final = 64 * 1024
"""Of a request's line and headers; browsers and proxies stay below 16 KiB."""

MAX_HEADERS: Final = 100
MAX_TARGET_BYTES: Final = 16 * 1024
"""Of the path and query of a request."""

_REST_SECONDS: Final = 30.0
_READ_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 5.0
"""How long a process that stops waits for slow clients; what they send was not acknowledged."""

_MAX_UNREAD_BYTES: Final = 96 * 1024 * 1024
_LOOK_SECONDS: Final = 0.5
_READS_A_TURN: Final = 32
"""Pieces of what clients sent that are read in a turn of the event loop: about 2 ms of work."""

_HOST_OF_TARGET: Final = re.compile(rb"[^/?#]*://([^/?#]*)")

Refuse = Callable[[bytes, bytes], Response | None]
"""From a request's method and target to the answer, if it needs none of the application."""

_ANSWERED: Final[Any] = SimpleNamespace(
    response_started=True, response_complete=True, message_event=asyncio.Event()
)
"""Stands for the first request of a connection when the application never saw it."""


class Connections:
    """All connections of a server, by what of their clients they wait for.

    Each value is when the wait ends, in the event loop's seconds.
    """

    def __init__(
        self,
        head_seconds: float,
        keep_alive_seconds: float,
        max_connections: int,
        refuse: Refuse,
    ) -> None:
        self.head_seconds = head_seconds
        self.keep_alive_seconds = keep_alive_seconds
        self.max_connections = max_connections
        self.refuse = refuse
        self.heads: dict[Connection, float] = {}
        self.bodies: dict[Connection, float] = {}
        self.unread: dict[Connection, float] = {}
        self._reads = 0  # in this turn of the event loop
        self._put_off: deque[Connection] = deque()

    @property
    def protocol(self) -> type[asyncio.Protocol]:
        """What uvicorn makes for each connection."""
        return cast("type[asyncio.Protocol]", partial(Connection, self))

    async def watch(self) -> None:
        """Close connections whose client is late, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = loop.time()
            for waiting, end in (
                (self.heads, Connection.end_head),
                (self.bodies, Connection.abort),
                (self.unread, Connection.abort),
            ):
                late = [connection for connection, until in waiting.items() if until < now]
                for connection in late:
                    end(connection)

    def make_room(self) -> None:
        """Close the connection that has waited longest: for a head, else for a body."""
        # The last of the heads is the new connection, which may be a probe's.
        waiting = self.heads if len(self.heads) > 1 or not self.bodies else self.bodies
        next(iter(waiting)).abort()

    def limit_unread(self) -> None:
        """Close connections that have waited longest for their reader while there is too much."""
        total = sum(connection.unread_bytes for connection in self.unread)
        for connection in [*self.unread][:-1]:
            if total <= _MAX_UNREAD_BYTES:
                break
            total -= connection.unread_bytes
            connection.abort()

    def may_read(self, connection: "Connection") -> bool:
        """Tell whether to read what has come now; else the connection's turn comes later."""
        if self._reads == 0:
            asyncio.get_running_loop().call_soon(self._next_turn)
        if self._reads < _READS_A_TURN:
            self._reads += 1
            return True
        self._put_off.append(connection)
        return False

    def _next_turn(self) -> None:
        loop = asyncio.get_running_loop()
        self._reads = min(len(self._put_off), _READS_A_TURN)
        if self._reads:
            loop.call_soon(self._next_turn)
        for _ in range(self._reads):
            loop.call_soon(self._put_off.popleft().read_now)

    def forget(self, connection: "Connection") -> None:
        """Wait no longer for this one's client."""
        for waiting in (self.heads, self.bodies, self.unread):
            waiting.pop(connection, None)


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, with every wait for the client entered in ``Connections``."""

    def __init__(self, all_of_them: Connections, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._all = all_of_them
        self._in_head = True
        self._refusal: tuple[HTTPStatus, str] | None = None
        self._bytes = 0  # since the last head or piece of a body was complete
        self._put_off = b""
        self.url = b""

    @property
    def unread_bytes(self) -> int:
        """How much waits in this process for the client to read."""
        return self.transport.get_write_buffer_size()

    def abort(self) -> None:
        """Cut the client off."""
        self._all.forget(self)
        self.transport.abort()

    def end_head(self) -> None:
        """Close a connection on which no request came, or tell why if a part of one came."""
        if self._in_head and self._bytes:
            self._refusal = (
                HTTPStatus.REQUEST_TIMEOUT,
                f"the request's head was not there after {self._all.head_seconds:g} s",
            )
            self.send_400_response("")
        else:
            self.transport.close()
        self._all.forget(self)

    # What the transport calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait_for_head(self._all.head_seconds)
        if len(self.connections) > self._all.max_connections:
            self._all.make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._all.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what has come, now or in one of the next turns."""
        if self._all.may_read(self):
            self._read(data)
        else:
            self._put_off = data
            self.transport.pause_reading()

    def read_now(self) -> None:
        """Read what was put off."""
        data, self._put_off = self._put_off, b""
        if self.transport.is_closing():
            return
        try:
            self._read(data)
        finally:
            if not (self.flow.read_paused or self.transport.is_closing()):
                self.transport.resume_reading()

    def _read(self, data: bytes) -> None:
        """Read on, up to the limits of what is no body."""
        if not self._in_head and self in self._all.heads:  # the next request begins
            self._in_head = True
            self._wait_for_head(self._all.head_seconds)
        self._bytes += len(data)
        super().data_received(data)
        if self._bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse_head()
            self.send_400_response("")

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self._all.unread[self] = self.loop.time() + _READ_SECONDS
        self._all.limit_unread()

    def resume_writing(self) -> None:
        """Wait no longer for the client to read."""
        self._all.unread.pop(self, None)
        super().resume_writing()

    # What the parser calls

    def on_headers_complete(self) -> None:
        """Begin to serve, unless the head is larger than allowed."""
        if (
            len(self.url) > MAX_TARGET_BYTES
            or len(self.headers) > MAX_HEADERS
            or sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES
        ):
            self._refuse_head()
        if self._refusal:
            raise ValueError(self._refusal)  # makes the parser stop and ask for a refusal
        self._in_head = False
        self._bytes = 0
        self._all.heads.pop(self, None)
        self._all.bodies[self] = float("inf")
        # A target may name a host itself, for which the request is then: one Host more, so that
        # another one in the header makes two, which nobody takes.
        if (named := _HOST_OF_TARGET.match(self.url)) and (b"host", named[1]) not in self.headers:
            self.headers.append((b"host", named[1]))
        response = (
            self._all.refuse(self.parser.get_method(), self.url) if self._is_plain() else None
        )
        if response is None:
            super().on_headers_complete()
        else:
            self._answer(response)

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait no longer for the body."""
        self._bytes = 0
        self._all.bodies.pop(self, None)
        super().on_message_complete()
        if self.cycle.response_complete:
            self._wait_for_head(self._all.keep_alive_seconds)

    # What the application causes

    def on_response_complete(self) -> None:
        """Wait for the rest of the body, or for the next request."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self in self._all.bodies:
            self._all.bodies[self] = self.loop.time() + _REST_SECONDS
        elif self.cycle.response_complete:  # no request was sent before this answer
            self._wait_for_head(self._all.keep_alive_seconds)

    def shutdown(self) -> None:
        """Finish what is being served, but do not wait long for clients."""
        super().shutdown()
        self.loop.call_later(_STOP_SECONDS, self._stop)

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong with a request that never reached the application, and close."""
        self._all.forget(self)
        cycle = self.cycle
        if cycle and cycle.response_started and not (self._in_head and cycle.response_complete):
            self.transport.abort()  # an answer within or behind another one would confuse
            return
        status, detail = self._refusal or (HTTPStatus.BAD_REQUEST, msg)
        content = json.dumps(
            {"type": "about:blank", "title": status.phrase, "status": status, "detail": detail}
        ).encode()
        self.transport.write(
            f"HTTP/1.1 {status} {status.phrase}\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode()
            + content
        )
        self.transport.close()

    def _is_plain(self) -> bool:
        """Tell whether an answer can be sent now, with nothing to say of the connection."""
        return (
            (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
            and not self.expect_100_continue
            and not self.parser.should_upgrade()
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
        )

    def _answer(self, response: Response) -> None:
        """Send this; the rest of the request is read and dropped, and the next one may come."""
        headers = [*self.server_state.default_headers, *response.raw_headers]
        self.transport.write(
            b"HTTP/1.1 %d %b\r\n%b\r\n%b"
            % (
                response.status_code,
                HTTPStatus(response.status_code).phrase.encode(),
                b"".join(b"%b: %b\r\n" % header for header in headers),
                bytes(response.body),
            )
        )
        self.cycle = self.cycle or _ANSWERED
        self.on_response_complete()

    def _stop(self) -> None:
        if self in self._all.bodies or self in self._all.unread:
            self.abort()

    def _wait_for_head(self, seconds: float) -> None:
        self._all.heads.pop(self, None)  # it goes to the end: the first has waited longest
        self._all.heads[self] = self.loop.time() + seconds

    def _refuse_head(self) -> None:
        if len(self.url) > MAX_TARGET_BYTES:
            detail = f"the address is longer than {MAX_TARGET_BYTES} bytes"
            self._refusal = HTTPStatus.REQUEST_URI_TOO_LONG, detail
        else:
            detail = f"a request may have {MAX_HEADERS} headers of {MAX_HEAD_BYTES} bytes together"
            self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail
