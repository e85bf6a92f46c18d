"""The use case: remove the thumbnails whose picture or face is gone.

Whoever deletes a picture or a face has its thumbnails removed, but for a version that knew of none.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

import structlog

from services.common.errors import ObjectStoreUnavailableError
from services.common.object_info import ObjectInfo
from services.common.thumbnails import OF_FACES, OF_IMAGES, OF_KNOWN, picture_of
from services.redeemer.domain import LOOKED_AT_ONCE
from services.redeemer.metrics import REMOVED

log = structlog.get_logger(__name__)


class Rows(Protocol):
    """The pictures' rows; raises ``DatabaseUnavailableError``."""

    async def gone(self, thumbnails: Mapping[str, int]) -> Sequence[str]:
        """Return those of the keys whose picture, with that id, has no row any more.

        And those of a face that is none, or nowhere in that picture, any more.
        """


class Objects(Protocol):
    """The object store; each call raises ``ObjectStoreUnavailableError``."""

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield every object below the prefix, which ends in ``/``."""

    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is fine."""


class Thumbnails:
    """Looks at all thumbnails; several replicas may."""

    def __init__(self, *, rows: Rows, objects: Objects) -> None:
        self._rows = rows
        self._objects = objects

    async def collect(self) -> None:
        """Remove those without a picture or a face; raise ``DatabaseUnavailableError``."""
        found: dict[str, int] = {}
        try:
            for prefix in (OF_IMAGES, OF_FACES, OF_KNOWN):
                async for one in self._objects.list(prefix):
                    picture_id = picture_of(one.key)
                    if picture_id is not None:
                        found[one.key] = picture_id
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
