"""What the use cases need; each call on rows raises ``DatabaseUnavailableError``."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from services.common.changes import Store
from services.common.object_info import ObjectInfo
from services.common.stored_pictures import Removal
from services.redeemer.domain import Census, DueRemoval, OldPage, OldPicture


class RepairRows(Protocol):
    """The images. The first four change up to ``BATCH`` of them, those due longest first.

    They return the ids of those that this very call has changed.
    """

    async def take_failed(self) -> Sequence[int]:
        """Make failed images that are due pending."""

    async def take_abandoned(self) -> Sequence[int]:
        """Make images whose lease is over pending, if they have an attempt left."""

    async def mark_abandoned_dead(self) -> Sequence[int]:
        """Make images whose lease is over dead, if they have no attempt left."""

    async def take_waiting(self) -> Sequence[int]:
        """Move the due time of pending images that are due to the next interval."""

    async def forget_events(self) -> int:
        """Remove those that are old of the first ``EVENTS_BATCH`` events; return how many."""

    async def census(self) -> Census:
        """Count the rows."""


class DueGarbage(Protocol):
    """What says which objects are to be removed: notes, and for thumbnails what they are of."""

    async def take(self) -> Sequence[DueRemoval]:
        """Take up to ``BATCH`` objects that are due and that no row names, for a minute.

        Whoever is storing such an object will not give it a row any more.
        """

    async def removed(self, removals: Sequence[DueRemoval]) -> None:
        """Note that they are gone. Those that may still be written are due once more, later."""

    async def gone(self, thumbnails: Mapping[str, int]) -> Sequence[str]:
        """Return those of the keys whose picture, with that id, has no row any more.

        And those of a face that is none, or nowhere in that picture, any more.
        """


class OldPictures(Protocol):
    """The images, as far as they were submitted too long ago."""

    async def page(self, after: int) -> OldPage:
        """Look at up to ``LOOKED_AT_ONCE`` images with ids above that one, the oldest first."""

    async def erase(self, some: Mapping[OldPicture, Removal | None]) -> Sequence[int]:
        """Erase images with their results, and the known pictures that were cut out of them.

        Each with its object. Returns the ids of those that this very call has erased: not of those
        that are gone, have just been submitted again, or are somebody else's now.
        """


class OldAudit(Protocol):
    """Who did what too long ago."""

    async def remove(self) -> int:
        """Remove up to ``AUDIT_BATCH`` rows, the oldest first; return how many."""


class StoredObjects(Store, Protocol):
    """The object store; each call raises ``ObjectStoreUnavailableError``."""

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield every object below the prefix, which ends in ``/``."""

    async def tag(self, key: str) -> str | None:
        """Return an object's tag, which changes with it; None when there is none."""

    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is fine."""
