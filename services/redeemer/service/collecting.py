"""The use case: remove the objects that no row names.

A key of uploads or enrolments is written once and never used again, so what happens late to one
harms no other. Of a key that people write only the object with the noted tag is removed.
"""

import asyncio

import structlog

from services.common.changes import mark_changed
from services.common.errors import AwayError
from services.common.images import KNOWN_PEOPLE
from services.common.logs import Outage
from services.redeemer.domain import BATCH, DueRemoval
from services.redeemer.metrics import REMOVED
from services.redeemer.ports import DueGarbage, StoredObjects

log = structlog.get_logger(__name__)


class Collector:
    """Removes objects; several replicas may."""

    def __init__(self, *, garbage: DueGarbage, objects: StoredObjects) -> None:
        self._garbage = garbage
        self._objects = objects
        self._store = Outage("object store")

    async def collect(self) -> None:
        """Remove what is due; raise ``DatabaseUnavailableError`` when that cannot be told."""
        full = True
        while full:
            removals = await self._garbage.take()
            # At once: one that cannot be removed keeps no other waiting, and little time passes
            # between the look at the rows and the removal.
            errors = await asyncio.gather(*map(self._remove, removals))
            gone = [
                removal for removal, error in zip(removals, errors, strict=True) if error is None
            ]
            if gone:
                await self._garbage.removed(gone)
            # The rest is due again when its minute is over.
            if error := next(filter(None, errors), None):
                self._store.failed(error)
            elif gone:
                self._store.passed()
            full = len(gone) == BATCH

    async def _remove(self, removal: DueRemoval) -> AwayError | None:
        try:
            if removal.tag is not None and await self._objects.tag(removal.key) != removal.tag:
                return None
            await self._objects.delete(removal.key)
        except AwayError as error:
            return error
        if removal.key.startswith(KNOWN_PEOPLE):
            await mark_changed(self._objects, removal.key)
        REMOVED.inc()
        log.info("removed", key=removal.key)
        return None
