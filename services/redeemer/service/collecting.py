"""The use case: remove the objects that no row names.

A key of uploads or enrolments is written once and never used again, so what happens late to one
harms no other. Of a key that people write only the object with the noted tag is removed.

Whoever deletes a picture or a face has its thumbnails removed, too, but for a version that knew of
none: so now and then all thumbnails are looked at.
"""

import asyncio
from collections.abc import Mapping

import structlog

from services.common.availability import AvailabilityLog
from services.common.changes import mark_changed
from services.common.errors import AwayError, ObjectStoreUnavailableError
from services.common.object_keys import KNOWN_PEOPLE
from services.common.thumbnail_keys import OF_FACES, OF_IMAGES, OF_KNOWN, picture_of
from services.redeemer.domain import BATCH, LOOKED_AT_ONCE, DueRemoval
from services.redeemer.metrics import REMOVED
from services.redeemer.ports import DueGarbage, StoredObjects

log = structlog.get_logger(__name__)


class Collector:
    """Removes objects; several replicas may."""

    def __init__(self, *, garbage: DueGarbage, objects: StoredObjects) -> None:
        self._garbage = garbage
        self._objects = objects
        self._store = AvailabilityLog("object store")

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

    async def collect_thumbnails(self) -> None:
        """Remove thumbnails without a picture or a face; raise ``DatabaseUnavailableError``."""
        found: dict[str, int] = {}
        try:
            for prefix in (OF_IMAGES, OF_FACES, OF_KNOWN):
                async for thumbnail in self._objects.list(prefix):
                    picture_id = picture_of(thumbnail.key)
                    if picture_id is not None:
                        found[thumbnail.key] = picture_id
                    if len(found) == LOOKED_AT_ONCE:
                        await self._remove_thumbnails(found)
                        found = {}
            await self._remove_thumbnails(found)
        except ObjectStoreUnavailableError as error:
            log.warning("not all thumbnails were looked at", error=str(error))

    async def _remove_thumbnails(self, thumbnails: Mapping[str, int]) -> None:
        for key in await self._garbage.gone(thumbnails):
            await self._objects.delete(key)
            REMOVED.inc()
            log.info("removed", key=key)
