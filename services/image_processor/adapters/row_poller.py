"""The embedded default: the rows themselves are the queue.

Several processors may poll the same table; the claim decides, and an id that somebody else
claimed first costs one statement.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from services.common.availability import AvailabilityLog
from services.common.errors import AwayError

log = structlog.get_logger(__name__)

_BATCH: Final = 8
_MAX_REST_SECONDS: Final = 2.0


class RowPoller:
    """Offers the ids of pending images, oldest first.

    ``pending`` returns up to so many of them; ``poll_seconds`` is the pause when there is none.
    """

    def __init__(
        self,
        pending: Callable[[int], Awaitable[list[int]]],
        *,
        poll_seconds: float,
        database: AvailabilityLog,
    ) -> None:
        self._pending = pending
        self._poll_seconds = poll_seconds
        self._rest = poll_seconds
        self._ids: deque[int] = deque()
        # What was handed out and when it may be offered again; it may still be pending.
        self._not_before: dict[int, float] = {}
        self._polling = asyncio.Lock()
        self._running = asyncio.Event()
        self._running.set()
        self._awake = asyncio.Event()
        self._stopped = False
        self._database = database

    async def take(self) -> "PolledRing | None":
        async with self._polling:
            while True:
                await self._running.wait()
                if self._stopped:
                    return None
                if self._ids:
                    image_id = self._ids.popleft()
                    self._not_before[image_id] = float("inf")
                    return PolledRing(image_id, self)
                self._awake.clear()
                if not await self._fill():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._awake.wait(), self._rest)

    def pause(self) -> None:
        """Stop polling."""
        self._ids.clear()
        self._running.clear()

    def resume(self) -> None:
        """Poll again."""
        self._running.set()

    def resize(self, in_flight: int) -> None:
        """Do nothing: who asks gets one image."""

    def stop(self) -> None:
        """End polling for good."""
        self._stopped = True
        self._running.set()
        self._awake.set()

    async def close(self) -> None:
        """Do nothing: the rows are still there."""

    def answered(self, image_id: int, delay: float) -> None:
        """Offer the image again after ``delay`` seconds, if it is pending then."""
        self._not_before[image_id] = time.monotonic() + delay
        self._awake.set()

    async def _fill(self) -> bool:
        now = time.monotonic()
        self._not_before = {image_id: at for image_id, at in self._not_before.items() if at > now}
        try:
            ids = await self._pending(_BATCH + len(self._not_before))
        except AwayError as error:
            self._database.failed(error)
            self._rest = min(self._rest * 2, _MAX_REST_SECONDS)
        except Exception:
            log.exception("the rows could not be read")
            self._rest = _MAX_REST_SECONDS
        else:
            self._database.passed()
            self._rest = self._poll_seconds
            if self._running.is_set():
                self._ids.extend(image_id for image_id in ids if image_id not in self._not_before)
        return bool(self._ids)


class PolledRing:
    """An image that was pending when it was looked for."""

    def __init__(self, image_id: int, poller: RowPoller) -> None:
        self._poller = poller
        self.image_id = image_id

    def touch(self) -> None:
        """Do nothing: the lease says that it is worked on."""

    def finish(self) -> None:
        """Let it be; its row says what is next."""
        self._poller.answered(self.image_id, 0)

    def requeue(self, delay: float) -> None:
        """Offer it again if it is still pending after ``delay`` seconds."""
        self._poller.answered(self.image_id, delay)
