"""The states of an image."""

from enum import StrEnum
from typing import Final


class Status(StrEnum):
    """Where an image stands; see docs/architecture.md for the arrows between them."""

    PENDING = "pending"
    PROCESSING = "processing"
    PROCESSED = "processed"
    FAILED = "failed"
    REJECTED = "rejected"
    DEAD = "dead"


FINAL: Final = frozenset({Status.PROCESSED, Status.REJECTED, Status.DEAD})
"""What no repair touches again."""

RETRIABLE: Final = frozenset({Status.REJECTED, Status.DEAD})
"""What a person may send back to pending."""
