"""What the redeemer looks for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.common.stored_pictures import StoredPicture

BATCH: Final = 100
"""Rows of one kind that one step takes, those due longest first."""

LOOKED_AT_ONCE: Final = 1000
"""Thumbnails whose pictures are looked for in one statement: as many as a store lists at once. And
images of which one statement tells the old ones."""

REMOVAL_MS: Final = 60_000
"""How long the removal of an object is one replica's; after that another one removes it."""

REMOVE_AGAIN_MS: Final = 3_600_000
"""When an object that may still be on its way to the store is removed once more.

A write that was given up may come through later; no server holds one back for an hour.
"""

EVENTS_BATCH: Final = 1000
"""Events that one transaction removes."""


AUDIT_BATCH: Final = 1000
"""Rows of the audit that one transaction removes."""


@dataclass(frozen=True)
class Census:
    """Rows per status, and for how many ms the oldest pending one has waited; None: none does.

    ``without_backup`` is for how many seconds there was no good backup; None: none was ever tried.
    """

    counts: dict[str, int]
    longest_wait: int | None
    without_backup: float | None = None


@dataclass(frozen=True)
class DueRemoval:
    """An object to remove, if it has the tag, where there is one; ``token`` makes it ours."""

    key: str
    tag: str | None
    token: str


@dataclass(frozen=True)
class OldPicture:
    """An image that is to be erased, and for how many ms already."""

    image_id: int
    picture: StoredPicture
    overdue_ms: int


@dataclass(frozen=True)
class OldPage:
    """Old pictures among some images, and the last one's id; None: none behind them is old."""

    pictures: Sequence[OldPicture]
    last_id: int | None
