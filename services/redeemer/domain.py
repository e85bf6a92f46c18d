"""What the redeemer looks for."""

from dataclasses import dataclass
from typing import Final

from services.common.images import MAX_ATTEMPTS

BATCH: Final = 100
"""Rows of one kind that one step takes, oldest first."""

ENOUGH_RINGS: Final = 100
"""With so many rings in the queue the processors are busy, and more would not help."""


def unfinished(attempt: int) -> str:
    """Return the error of an image whose last lease ran out."""
    return f"processing did not finish in time, attempt {attempt} of {MAX_ATTEMPTS}"


@dataclass(frozen=True)
class Census:
    """Rows per status, and for how many ms the oldest pending one has waited; None: none does."""

    counts: dict[str, int]
    longest_wait: int | None
