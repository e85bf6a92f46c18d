"""The use case: erase pictures, and forget who did what, when their time is over.

Pictures go in batches, the oldest first, each a transaction that leaves nothing to go on with: who
is killed is followed by whoever looks next. Replicas may look at the same; one of them erases it.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from services.common.availability import AvailabilityLog
from services.common.batches import batched
from services.common.errors import DatabaseConflictError, ObjectStoreUnavailableError
from services.common.stored_pictures import Removal, removal_of
from services.redeemer.domain import AUDIT_BATCH, BATCH, OldPicture
from services.redeemer.metrics import ERASED, OVERDUE
from services.redeemer.ports import OldAudit, OldPictures, StoredObjects

log = structlog.get_logger(__name__)


class PictureRetention:
    """Erases pictures that were submitted too long ago, with all that was made of them."""

    def __init__(
        self, *, rows: OldPictures, objects: StoredObjects, stops: Callable[[], bool]
    ) -> None:
        self._rows = rows
        self._objects = objects
        self._stops = stops
        self._store = AvailabilityLog("object store")

    async def erase_old(self) -> None:
        """Erase all that are old; raise ``DatabaseUnavailableError`` when that cannot be told."""
        left = 0
        after: int | None = 0
        while after is not None:
            page = await self._rows.page(after)
            for some in batched(page.pictures, BATCH):
                if self._stops():
                    return
                OVERDUE.set(max(left, *(old.overdue_ms for old in some)) / 1000)
                left = max(left, await self._erase(some))
            after = page.last_id
        OVERDUE.set(left / 1000)

    async def _erase(self, some: Sequence[OldPicture]) -> int:
        """Return for how many ms one that could not be erased is overdue; 0 when all are gone."""
        # At once: one of which the store says nothing keeps no other waiting.
        found = await asyncio.gather(*map(self._removal, some))
        told = {
            old: removal for old, (removal, error) in zip(some, found, strict=True) if not error
        }
        if error := next((error for _, error in found if error), None):
            self._store.failed(error)
        else:
            self._store.passed()
        try:
            ids = await self._rows.erase(told)
        except DatabaseConflictError:  # the next look finds them again
            return max(old.overdue_ms for old in some)
        if ids:
            ERASED.inc(len(ids))
            log.info("erased, as their time is over", image_ids=list(ids))
        return max((old.overdue_ms for old in some if old not in told), default=0)

    async def _removal(
        self, old: OldPicture
    ) -> tuple[Removal | None, ObjectStoreUnavailableError | None]:
        try:
            return await removal_of(old.picture, self._objects.tag), None
        except ObjectStoreUnavailableError as error:
            return None, error


class AuditRetention:
    """Removes rows of the audit that are old."""

    def __init__(self, *, rows: OldAudit, stops: Callable[[], bool]) -> None:
        self._rows = rows
        self._stops = stops

    async def remove_old(self) -> None:
        """Remove them in parts; raise ``DatabaseUnavailableError`` when that cannot be done."""
        while not self._stops() and await self._rows.remove() == AUDIT_BATCH:
            pass
