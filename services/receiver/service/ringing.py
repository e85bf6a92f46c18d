"""Rings the doorbell for accepted images, never in a request's way."""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final

from services.common.availability import AvailabilityLog
from services.common.doorbell import Doorbell
from services.common.errors import DoorbellUnavailableError
from services.receiver.metrics import RINGS

_BATCH: Final = 1000


class Ringer:
    """Sends the ids that it is given in the background.

    What does not fit into the buffer or is not taken by the queue is counted and forgotten: the
    redeemer rings for every row that nobody works on.
    """

    def __init__(self, doorbell: Doorbell, *, capacity: int = 10_000) -> None:
        self._doorbell = doorbell
        self._capacity = capacity
        self._waiting: deque[int] = deque()
        self._task: asyncio.Task[None] | None = None
        self._outage = AvailabilityLog("nsqd")

    def ring(self, image_ids: Iterable[int]) -> None:
        """Note images to announce."""
        for image_id in image_ids:
            if len(self._waiting) < self._capacity:
                self._waiting.append(image_id)
            else:
                RINGS.labels("dropped").inc()
        if self._waiting and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._send())

    async def check(self) -> None:
        """Raise ``DoorbellUnavailableError`` when the queue does not answer."""
        await self._doorbell.depth()

    async def flush(self) -> None:
        """Return when nothing waits any more."""
        if self._task:
            await self._task

    async def _send(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            try:
                await self._doorbell.ring(batch)
            except DoorbellUnavailableError as error:
                RINGS.labels("failed").inc(len(batch))
                self._outage.failed(error)
            else:
                RINGS.labels("sent").inc(len(batch))
                self._outage.passed()
