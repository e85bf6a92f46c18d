"""What the redeemer looks for."""

from dataclasses import dataclass
from typing import Final

from services.common.images import MAX_ATTEMPTS

BATCH: Final = 100
"""Rows of one kind that one step takes, oldest first."""

LOOKED_AT_ONCE: Final = 1000
"""Thumbnails whose pictures are looked for in one statement: as many as a store lists at once."""

ENOUGH_RINGS: Final = 1000
"""The queue is kept filled up to so many rings: what 500 pictures a second need between two sweeps.

More would not help, and what waits behind them is rung for when there is room.
"""


REMOVAL_MS: Final = 60_000
"""How long the removal of an object is one replica's; after that another one removes it."""

REMOVE_AGAIN_MS: Final = 3_600_000
"""When an object that may still be on its way to the store is removed once more.

A write that was given up may come through later; no server holds one back for an hour.
"""

EVENTS_BATCH: Final = 1000
"""Events that one transaction removes."""


def unfinished(attempt: int) -> str:
    """Return the error of an image whose last lease ran out."""
    return f"processing did not finish in time, attempt {attempt} of {MAX_ATTEMPTS}"


@dataclass(frozen=True)
class Census:
    """Rows per status, and for how many ms the oldest pending one has waited; None: none does."""

    counts: dict[str, int]
    longest_wait: int | None
