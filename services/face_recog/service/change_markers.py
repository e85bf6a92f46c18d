"""Following the markers of changed people, and removing them."""

import asyncio
import time
from collections.abc import Collection, Iterable
from typing import Final

import structlog

from services.common.availability import AvailabilityLog
from services.common.batches import batched
from services.common.changes import CHANGES, changed_person
from services.common.object_info import ObjectInfo
from services.face_recog.ports import KeptStore
from services.face_recog.service.kept_encodings import PARALLEL, noting

log = structlog.get_logger(__name__)

_KEPT_SECONDS: Final = 60.0
"""How long a marker stays for other replicas after one has looked at what it says: each looks every
few seconds, and one that could not finds the change by listing all, as without markers."""

_LISTED: Final = 10_000
"""Markers in one look, ten answers of S3. More are there only while nobody removes them."""

_REMOVALS: Final = 500
"""Removals in one look: about a second, so that a change shows soon."""


class ChangeMarkers:
    """The markers that this replica has not looked at; those that all had time for are removed.

    It remembers which it has seen by their names, so the clocks of replicas and of the store may
    differ. What the store does not do raises nothing: then a change shows when all are listed.
    """

    def __init__(self, store: KeptStore) -> None:
        self._store = store
        self._seen: dict[str, float] = {}
        self._outage = AvailabilityLog("place for markers of changes")

    async def find(self) -> dict[str, str]:
        """Return the person whom each new marker names, by its key, the latest first."""
        listed: list[ObjectInfo] = []
        with noting(self._outage):
            async for info in self._store.list(CHANGES):
                listed.append(info)
                if len(listed) == _LISTED:
                    break
            await self._remove({info.key for info in listed})
        new = {}
        for info in sorted(listed, key=lambda info: -info.modified):
            if info.key in self._seen:
                continue
            if person := changed_person(info.key):
                new[info.key] = person
            else:
                log.warning("this is no marker of a change and will be removed", key=info.key)
                self.note_seen([info.key])
        return new

    def note_seen(self, markers: Iterable[str]) -> None:
        """Note that what these say has been looked at."""
        self._seen |= dict.fromkeys(markers, time.monotonic())

    async def _remove(self, listed: Collection[str]) -> None:
        """Remove those that were seen long ago, and forget those that are gone."""
        now = time.monotonic()
        self._seen = {key: seen for key, seen in self._seen.items() if key in listed}
        old = [key for key, seen in self._seen.items() if now - seen > _KEPT_SECONDS]
        for keys in batched(old[:_REMOVALS], PARALLEL):
            await asyncio.gather(*map(self._store.delete, keys))
