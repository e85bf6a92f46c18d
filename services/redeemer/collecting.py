"""The use case: remove the objects that no row names.

A key of uploads or enrolments is written once and never used again, so what happens late to one
harms no other. Of a key that people write only the object with the noted tag is removed.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from services.common.changes import mark_changed
from services.common.errors import ObjectStoreUnavailableError
from services.common.images import KNOWN_PEOPLE
from services.common.logs import Outage
from services.redeemer.domain import BATCH
from services.redeemer.metrics import REMOVED

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Removal:
    """An object to remove, if it has the tag, where there is one; ``token`` makes it ours."""

    key: str
    tag: str | None
    token: str


class Garbage(Protocol):
    """The notes of objects; each call raises ``DatabaseUnavailableError``."""

    async def take(self) -> Sequence[Removal]:
        """Take up to ``BATCH`` objects that are due and that no row names, for a minute.

        Whoever is storing such an object will not give it a row any more.
        """

    async def removed(self, removals: Sequence[Removal]) -> None:
        """Note that they are gone. Those that may still be written are due once more, later."""


class Objects(Protocol):
    """The object store; each call raises ``ObjectStoreUnavailableError``."""

    async def tag(self, key: str) -> str | None:
        """Return an object's tag, which changes with it; None when there is none."""

    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is fine."""

    async def put(self, key: str, content: bytes) -> None:
        """Create or replace an object."""


class Collector:
    """Removes objects; several replicas may."""

    def __init__(self, *, garbage: Garbage, objects: Objects) -> None:
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
            gone = [one for one, error in zip(removals, errors, strict=True) if error is None]
            if gone:
                await self._garbage.removed(gone)
            # The rest is due again when its minute is over.
            if error := next(filter(None, errors), None):
                self._store.failed(error)
            elif gone:
                self._store.passed()
            full = len(gone) == BATCH

    async def _remove(self, one: Removal) -> ObjectStoreUnavailableError | None:
        try:
            if one.tag is not None and await self._objects.tag(one.key) != one.tag:
                return None
            await self._objects.delete(one.key)
        except ObjectStoreUnavailableError as error:
            return error
        if one.key.startswith(KNOWN_PEOPLE):
            await mark_changed(self._objects, one.key)
        REMOVED.inc()
        log.info("removed", key=one.key)
        return None
