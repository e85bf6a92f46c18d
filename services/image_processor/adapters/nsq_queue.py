"""The queue in a cluster: pynsq's reader, with what it gets wrong put right.

Nothing else patches pynsq, and with another version of it there is no queue: see ``check_pynsq``.
pynsq 0.9.1 looks nsqd up once a minute, resolves host names in the event loop, forgets a live
connection when a second one to the same nsqd comes up, keeps a reader that is resumed with a
message in flight at RDY 0, and finishes silently after ``max_tries``. It logs each failed try to
connect with a traceback; this module says once what changed. Its timers follow the wall clock: when
that is set back by an hour, nothing is looked up for an hour.
"""

import asyncio
import json
import logging
import socket
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any, Final

import nsq
import structlog
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.ioloop import IOLoop
from tornado.iostream import StreamClosedError

from services.common.availability import AvailabilityLog
from services.common.doorbell import parse_ring
from services.common.settings import CHANNEL, TOPIC

log = structlog.get_logger(__name__)

_LOOKUP_SECONDS: Final = 2
_HEARTBEAT_SECONDS: Final = 5
_CONNECT_SECONDS: Final = 5.0
_FLUSH_SECONDS: Final = 2.0

_PYNSQ: Final = "0.9.1"
_INSIDES: Final = (
    "_connection_max_in_flight",
    "_on_connection_close",
    "_on_connection_error",
    "_on_connection_ready",
    "_send_rdy",
    "connect_to_nsqd",
    "query_lookupd",
    "set_max_in_flight",
)
"""What of pynsq's reader this module overrides, or calls although it is private."""


def check_pynsq(found: str, reader: type) -> None:
    """Raise ``ImportError`` unless this version's reader is the one that is patched here."""
    missing = [name for name in _INSIDES if not hasattr(reader, name)]
    if found != _PYNSQ or missing:
        raise ImportError(
            f"nsq_queue.py patches the insides of pynsq {_PYNSQ}, and this is {found}"
            + (f" without {', '.join(missing)}" if missing else "")
            + ": compare them, and run test_nsq_queue.py"
        )


class NsqQueue:
    """Rings from every nsqd that the nsqlookupd instances know; ``lookupd_urls`` are HTTP.

    After ``message_timeout`` seconds without TOUCH nsqd gives a message to somebody else.
    """

    def __init__(
        self,
        lookupd_urls: Sequence[str],
        *,
        max_in_flight: int,
        message_timeout: float = 20.0,
        topic: str = TOPIC,
        channel: str = CHANNEL,
    ) -> None:
        check_pynsq(version("pynsq"), nsq.Reader)
        for name in ("nsq", "tornado.application"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        IOLoop.current().time = time.monotonic  # type: ignore[method-assign]
        self._max_in_flight = max_in_flight
        self._messages: deque[NsqRing] = deque()
        self._unanswered: set[NsqRing] = set()
        self._arrived = asyncio.Event()
        self._paused = False
        self._stopped = False
        self._reader = _Reader(
            topic,
            channel,
            message_handler=self._on_message,
            lookupd_http_addresses=list(lookupd_urls),
            max_tries=0,
            max_in_flight=max_in_flight,
            lookupd_poll_interval=_LOOKUP_SECONDS,
            lookupd_poll_jitter=0.0,
            heartbeat_interval=_HEARTBEAT_SECONDS,
            msg_timeout=message_timeout,
            # Not waiting for more to send keeps the way from ring to work short.
            output_buffer_timeout=25,
        )

    async def take(self) -> "NsqRing | None":
        while not self._stopped:
            if self._messages:
                return self._messages.popleft()
            self._arrived.clear()
            await self._arrived.wait()
        return None

    def pause(self) -> None:
        """Set RDY to 0 and give back what nobody has taken."""
        self._paused = True
        self._reader.set_max_in_flight(0)
        self._give_back()

    def resume(self) -> None:
        """Set RDY as before."""
        if not self._stopped:
            self._paused = False
            self._reader.resume(self._max_in_flight)

    def resize(self, in_flight: int) -> None:
        """Let RDY be another number."""
        self._max_in_flight = in_flight
        if not self._paused:
            self.resume()

    def stop(self) -> None:
        """Set RDY to 0 for good and let :meth:`take` return."""
        self._stopped = True
        self.pause()
        self._arrived.set()

    async def close(self) -> None:
        """Give back what was not answered, and close every connection."""
        self.stop()
        for ring in list(self._unanswered):
            ring.requeue(0)
        await self._reader.drain(_FLUSH_SECONDS)
        self._reader.close()

    def _give_back(self) -> None:
        while self._messages:
            self._messages.popleft().requeue(0)

    def _on_message(self, message: Any) -> None:
        message.enable_async()
        try:
            ring = NsqRing(message, self._unanswered)
        except ValueError as error:
            log.warning("a message that is no ring was dropped", error=str(error))
            message.finish()
            return
        self._messages.append(ring)
        if self._paused:  # it was on its way when RDY became 0
            self._give_back()
        self._arrived.set()


class NsqRing:
    """One message; ``ValueError`` when it holds no image id."""

    def __init__(self, message: Any, unanswered: "set[NsqRing]") -> None:
        self.image_id = parse_ring(message.body)
        self._message = message
        self._unanswered = unanswered
        unanswered.add(self)

    def touch(self) -> None:
        """Start the message timeout anew."""
        self._message.touch()

    def finish(self) -> None:
        """FIN."""
        self._unanswered.remove(self)
        self._message.finish()

    def requeue(self, delay: float) -> None:
        """REQ, without the backoff that would stop the whole reader."""
        self._unanswered.remove(self)
        self._message.requeue(backoff=False, time_ms=round(delay * 1000))


class _Reader(nsq.Reader):  # type: ignore[misc]  # pynsq has no types
    """A reader that finds every nsqd within seconds, and again after its restart."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._attempts: dict[str, tuple[float, Any]] = {}
        self._lookupds: dict[str, AvailabilityLog] = {}
        self._heard: dict[Any, tuple[float, float]] = {}
        self._closed = False
        super().__init__(*arguments, **keywords)

    async def query_lookupd(self) -> None:
        """Look for every nsqd, whether it has the topic yet or not; runs every few seconds."""
        try:
            self._drop_silent_connections()
            await self._look_up()
        except Exception:  # or tornado's silenced logger would be the only one to know
            log.exception("nsqd could not be looked up")

    async def _look_up(self) -> None:
        for url in self.lookupd_http_addresses:
            lookupd = self._lookupds.setdefault(url, AvailabilityLog(f"nsqlookupd at {url}"))
            request = HTTPRequest(
                f"{url.rstrip('/')}/nodes",
                connect_timeout=self.lookupd_connect_timeout,
                request_timeout=self.lookupd_request_timeout,
            )
            try:
                response = await self.http_client.fetch(request)
                producers = json.loads(response.body)["producers"]
            except (HTTPClientError, OSError, ValueError, KeyError) as error:
                lookupd.failed(error)
                continue
            lookupd.passed()
            for producer in producers:
                await self._find(producer["broadcast_address"], producer["tcp_port"])

    def resume(self, max_in_flight: int) -> None:
        """Set RDY, at once where each connection may have a message; pynsq shares out less."""
        self.set_max_in_flight(max_in_flight)
        if len(self.conns) <= max_in_flight:
            for conn in list(self.conns.values()):
                self._send_rdy(conn, self._connection_max_in_flight())

    async def drain(self, seconds: float) -> None:
        """Wait until every nsqd says that it sends nothing more, and has read every answer."""
        closing = [asyncio.ensure_future(_closed_by_nsqd(conn)) for conn in self.conns.values()]
        if closing:
            await asyncio.wait(closing, timeout=seconds)
        for waiting in closing:
            waiting.cancel()

    def close(self) -> None:
        """Close every connection and stop looking for others."""
        self._closed = True
        for _, conn in self._attempts.values():
            conn.close()
        if self.redist_periodic is not None:  # it has started
            self.redist_periodic.stop()
            self.query_periodic.stop()

    async def _find(self, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            return  # the next look-up tries again
        address = found[0][4][0]
        key = f"{address}:{port}"
        since, conn = self._attempts.get(key, (0.0, None))
        if self._closed or key in self.conns:
            return
        if conn is not None and not conn.closed():
            if time.monotonic() - since < _CONNECT_SECONDS:
                return
            conn.close()
        self.connection_attempts.pop(key, None)  # or pynsq waits for 10 s
        self._attempts[key] = (time.monotonic(), self.connect_to_nsqd(address, port))

    def _drop_silent_connections(self) -> None:
        # A node that lost its power sends no end of its connections. When a connection was last
        # heard pynsq says by the wall clock, which only tells whether it was heard again.
        now = time.monotonic()
        before = self._heard
        self._heard = {}
        for conn in list(self.conns.values()):
            last, since = before.get(conn, (None, now))
            if last != conn.last_recv_timestamp:
                since = now
            self._heard[conn] = conn.last_recv_timestamp, since
            if now - since > 2 * _HEARTBEAT_SECONDS:
                conn.close()

    def _on_connection_ready(self, conn: Any, **keywords: Any) -> None:
        super()._on_connection_ready(conn, **keywords)
        log.info("connected to nsqd", address=conn.id)

    def _on_connection_close(self, conn: Any, **keywords: Any) -> None:
        if conn.id in self.conns and not self._closed:
            log.warning("lost nsqd", address=conn.id)
        super()._on_connection_close(conn, **keywords)

    def _on_connection_error(self, conn: Any, error: Exception, **_: Any) -> None:
        if type(error) is nsq.protocol.Error:  # its own words; the rest only says that it is gone
            log.warning("nsqd refused a command", address=conn.id, error=str(error))


async def _closed_by_nsqd(conn: Any) -> None:
    """Send CLS; the answer comes after everything that was sent before."""
    closed = asyncio.Event()

    def on_response(data: bytes, **_: Any) -> None:
        if data == b"CLOSE_WAIT":
            closed.set()

    conn.on("response", on_response)
    with suppress(StreamClosedError):
        conn.send(b"CLS\n")
        await closed.wait()
