"""Tells everybody who listens what has changed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import structlog

from services.common.availability import AvailabilityLog
from services.common.errors import DatabaseUnavailableError
from services.common.events import Position
from services.receiver.domain.changes import Change
from services.receiver.domain.errors import BusyError
from services.receiver.metrics import LISTENERS
from services.receiver.ports import Events

log = structlog.get_logger(__name__)

_POLL_SECONDS: Final = 0.25

_MOST_WAITING: Final = 64
"""Pages of changes that wait for one listener; all listeners' queues hold the same pages."""


class Listener:
    """What one listener is to be told next: all that has changed since ``start``."""

    def __init__(self, start: Position) -> None:
        self.start = start
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue()

    @property
    def knows_all(self) -> bool:
        """Whether nothing waits for it."""
        return self._waiting.empty()

    async def next(self) -> bytes | None:
        """Wait for the next page; None: there comes no other."""
        return await self._waiting.get()

    def tell(self, page: bytes) -> None:
        """Have a page told, or nothing any more to one who does not keep up."""
        if self._waiting.qsize() < _MOST_WAITING:
            self._waiting.put_nowait(page)
        else:
            self.end()

    def end(self) -> None:
        """Have nothing told any more."""
        while not self._waiting.empty():
            self._waiting.get_nowait()
        self._waiting.put_nowait(None)


class Following:
    """Reads the changes once for all who listen, and only while somebody does.

    ``write`` makes a page of changes; that is done once for all, too.
    """

    def __init__(
        self, events: Events, write: Callable[[Sequence[Change]], bytes], *, max_listeners: int
    ) -> None:
        self._events = events
        self._write = write
        self._max_listeners = max_listeners
        self._listeners: set[Listener] = set()
        self._starting = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None
        self._outage = AvailabilityLog("database")
        self.position = Position(0, 0)
        """Of whoever listens and has been told all that waits for them."""

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Listener]:
        """Tell the listener, while the block runs, of all that is committed after it has begun.

        Raises ``BusyError`` and ``DatabaseUnavailableError``.
        """
        async with self._starting:
            if len(self._listeners) >= self._max_listeners:
                raise BusyError(
                    f"too many listeners at once, {self._max_listeners} are being served"
                )
            if self._reader is None:
                self.position = await self._events.latest()
                self._reader = asyncio.create_task(self._read())
            listener = Listener(self.position)
            self._listeners.add(listener)
        LISTENERS.set(len(self._listeners))
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
            LISTENERS.set(len(self._listeners))

    async def missed(self, since: Position) -> AsyncIterator[bytes | None]:
        """Yield pages of what has changed since a position; None: some of it is forgotten."""
        more = True
        while more:
            if await self._events.lost(since):
                yield None
                return
            changes = await self._events.after(since)
            since, more = changes.position, changes.more
            if changes.changes:
                yield self._write(changes.changes)

    async def close(self) -> None:
        """Tell nobody anything any more."""
        self._end_all()
        if self._reader:
            await self._reader

    def _end_all(self) -> None:
        for listener in self._listeners:
            listener.end()
        self._listeners.clear()

    async def _read(self) -> None:
        failed = False
        while self._listeners:
            more = False
            try:
                if failed and await self._events.lost(self.position):
                    self._end_all()  # they come again, and are told to load everything anew
                    break
                changes = await self._events.after(self.position)
                failed = False
                self._outage.passed()
                self.position, more = changes.position, changes.more
                if changes.changes:
                    page = self._write(changes.changes)
                    for listener in self._listeners:
                        listener.tell(page)
            except DatabaseUnavailableError as error:
                failed = True
                self._outage.failed(error)
            except Exception:
                failed = True
                log.exception("unexpected error")
            if not more:
                await asyncio.sleep(_POLL_SECONDS)
        # In the same turn as the look at who listens, so that nobody listens to no reader.
        self._reader = None
