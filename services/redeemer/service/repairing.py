"""The use case: find images that nobody works on, and notify the processors of them.

Each repair is a change of rows that only one of several replicas can make, so nobody is notified
twice. A notification that gets lost is repeated after the interval that the row itself holds.
"""

from collections.abc import Sequence

import structlog

from services.common.availability import AvailabilityLog
from services.common.doorbell import Doorbell
from services.common.errors import AwayError
from services.common.image_states import Status
from services.redeemer.domain import BATCH, EVENTS_BATCH
from services.redeemer.metrics import (
    IMAGES,
    OLDEST_PENDING,
    QUEUE_DEPTH,
    REDEEMED,
    WITHOUT_BACKUP,
)
from services.redeemer.ports import RepairRows

log = structlog.get_logger(__name__)


class Redeemer:
    """Sweeps the rows; several replicas may. The queue is kept filled up to ``enough_rings``."""

    def __init__(self, *, rows: RepairRows, doorbell: Doorbell, enough_rings: int) -> None:
        self._rows = rows
        self._doorbell = doorbell
        self._enough_rings = enough_rings
        self._queue = AvailabilityLog("queue")

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
                await self._notify(ids, reason)
                full = len(ids) == BATCH
        full = True
        while full:
            ids = await self._rows.mark_abandoned_dead()
            REDEEMED.labels("dead").inc(len(ids))
            for image_id in ids:
                log.warning("image is dead: its last attempt did not finish", image_id=image_id)
            full = len(ids) == BATCH
        while await self._rows.forget_events() == EVENTS_BATCH:
            pass
        if not self._doorbell.polled:
            await self._fill_queue()

    async def _fill_queue(self) -> None:
        """Notify of pending images, those due longest first, until the queue holds enough."""
        more = True
        while more:
            depth = await self._depth()
            if depth is None or depth >= self._enough_rings:
                return
            ids = await self._rows.take_waiting()
            REDEEMED.labels("pending").inc(len(ids))
            more = await self._notify(ids, "pending") and len(ids) == BATCH

    async def count(self) -> None:
        """Set the gauges; raise ``DatabaseUnavailableError`` when the rows cannot be had."""
        depth = await self._depth()
        if depth is not None:
            QUEUE_DEPTH.set(depth)
        census = await self._rows.census()
        for status in Status:
            IMAGES.labels(status.value).set(census.counts.get(status.value, 0))
        OLDEST_PENDING.set((census.longest_wait or 0) / 1000)
        WITHOUT_BACKUP.set(census.without_backup or 0)

    async def _notify(self, ids: Sequence[int], reason: str) -> bool:
        """Return whether the queue took them; those that it did not take are repeated later."""
        if not ids:
            return True
        try:
            await self._doorbell.ring(ids)
        except AwayError:  # _depth says that the queue is away
            return False
        log.info("notified", image_ids=list(ids), reason=reason)
        return True

    async def _depth(self) -> int | None:
        try:
            depth = await self._doorbell.depth()
        except AwayError as error:
            self._queue.failed(error)
            return None
        self._queue.passed()
        return depth
