"""The use case: remove the thumbnails whose picture or face is gone.

Whoever deletes a picture or a face has its thumbnails removed, but for a version that knew of none.
"""

from collections.abc import Mapping

import structlog

from services.common.errors import ObjectStoreUnavailableError
from services.common.thumbnails import OF_FACES, OF_IMAGES, OF_KNOWN, picture_of
from services.redeemer.domain import LOOKED_AT_ONCE
from services.redeemer.metrics import REMOVED
from services.redeemer.ports import StoredObjects, ThumbnailRows

log = structlog.get_logger(__name__)


class ThumbnailCollector:
    """Looks at all thumbnails; several replicas may."""

    def __init__(self, *, rows: ThumbnailRows, objects: StoredObjects) -> None:
        self._rows = rows
        self._objects = objects

    async def collect(self) -> None:
        """Remove those without a picture or a face; raise ``DatabaseUnavailableError``."""
        found: dict[str, int] = {}
        try:
            for prefix in (OF_IMAGES, OF_FACES, OF_KNOWN):
                async for thumbnail in self._objects.list(prefix):
                    picture_id = picture_of(thumbnail.key)
                    if picture_id is not None:
                        found[thumbnail.key] = picture_id
                    if len(found) == LOOKED_AT_ONCE:
                        await self._remove(found)
                        found = {}
            await self._remove(found)
        except ObjectStoreUnavailableError as error:
            log.warning("not all thumbnails were looked at", error=str(error))

    async def _remove(self, thumbnails: Mapping[str, int]) -> None:
        for key in await self._rows.gone(thumbnails):
            await self._objects.delete(key)
            REMOVED.inc()
            log.info("removed", key=key)
