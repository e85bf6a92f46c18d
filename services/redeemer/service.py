"""The use case: find images that nobody works on, and ring for them.

Each repair is a change of rows that only one of several replicas can make, so nothing is rung
twice. A ring that gets lost is repeated after the interval that the row itself holds.
"""

from collections.abc import Sequence
from typing import Protocol

import structlog

from services.common.doorbell import Doorbell
from services.common.errors import DoorbellUnavailableError
from services.common.images import Status
from services.common.logs import Outage
from services.redeemer.domain import BATCH, EVENTS_BATCH, Census
from services.redeemer.metrics import IMAGES, OLDEST_PENDING, QUEUE_DEPTH, REDEEMED

log = structlog.get_logger(__name__)


class Rows(Protocol):
    """The images; each call raises ``DatabaseUnavailableError`` when the database is away.

    The first four change up to ``BATCH`` rows, those due longest first, and return the ids of those
    that this very call has changed.
    """

    async def take_failed(self) -> Sequence[int]:
        """Make failed images that are due pending."""

    async def take_abandoned(self) -> Sequence[int]:
        """Make images whose lease is over pending, if they have an attempt left."""

    async def bury_abandoned(self) -> Sequence[int]:
        """Make images whose lease is over dead, if they have no attempt left."""

    async def take_waiting(self) -> Sequence[int]:
        """Move the due time of pending images that are due to the next interval."""

    async def forget_events(self) -> int:
        """Remove up to ``EVENTS_BATCH`` events that are old, the first ones; return how many."""

    async def census(self) -> Census:
        """Count the rows."""


class Redeemer:
    """Sweeps the rows; several replicas may. The queue is kept filled up to ``enough_rings``."""

    def __init__(self, *, rows: Rows, doorbell: Doorbell, enough_rings: int) -> None:
        self._rows = rows
        self._doorbell = doorbell
        self._enough_rings = enough_rings
        self._queue = Outage("queue")

    async def sweep(self) -> None:
        """Repair once; raise ``DatabaseUnavailableError`` when the rows cannot be had."""
        for reason, take in (
            ("failed", self._rows.take_failed),
            ("lease", self._rows.take_abandoned),
        ):
            full = True
            while full:
                ids = await take()
                REDEEMED.labels(reason).inc(len(ids))
                await self._ring(ids, reason)
                full = len(ids) == BATCH
        full = True
        while full:
            ids = await self._rows.bury_abandoned()
            REDEEMED.labels("dead").inc(len(ids))
            for image_id in ids:
                log.warning("image is dead: its last attempt did not finish", image_id=image_id)
            full = len(ids) == BATCH
        while await self._rows.forget_events() == EVENTS_BATCH:
            pass
        if not self._doorbell.polled:
            await self._fill_queue()

    async def _fill_queue(self) -> None:
        """Ring for pending images until the queue holds enough; what was never rung is first."""
        more = True
        while more:
            depth = await self._depth()
            if depth is None or depth >= self._enough_rings:
                return
            ids = await self._rows.take_waiting()
            REDEEMED.labels("pending").inc(len(ids))
            more = await self._ring(ids, "pending") and len(ids) == BATCH

    async def count(self) -> None:
        """Set the gauges; raise ``DatabaseUnavailableError`` when the rows cannot be had."""
        depth = await self._depth()
        if depth is not None:
            QUEUE_DEPTH.set(depth)
        census = await self._rows.census()
        for status in Status:
            IMAGES.labels(status.value).set(census.counts.get(status.value, 0))
        OLDEST_PENDING.set((census.longest_wait or 0) / 1000)

    async def _ring(self, ids: Sequence[int], reason: str) -> bool:
        """Return whether the queue took the rings; those that it did not are repeated later."""
        if not ids:
            return True
        log.info("rung", image_ids=list(ids), reason=reason)
        try:
            await self._doorbell.ring(ids)
        except DoorbellUnavailableError:  # _depth says that the queue is away
            return False
        return True

    async def _depth(self) -> int | None:
        try:
            depth = await self._doorbell.depth()
        except DoorbellUnavailableError as error:
            self._queue.failed(error)
            return None
        self._queue.passed()
        return depth
