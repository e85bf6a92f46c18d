"""How often work is tried, and how long a claim, a wait for a ring and an upload may last."""

from dataclasses import dataclass
from typing import Final

MAX_ATTEMPTS: Final = 5
"""After so many attempts that ended in a fault an image is dead, if no setting says otherwise."""

RING_AFTER_MS: Final = 10_000
"""How long a pending row waits before the redeemer rings for it."""

LEASE_MS: Final = 30_000
"""How long a claim is its owner's without being renewed."""

NUDGE_MS: Final = 5_000
"""How far a clock may be set back until what waits by it is taken for due at once."""

LATEST_DUE_MS: Final = LEASE_MS + NUDGE_MS
"""No row of work is due later than this, if no setting and no table says otherwise."""

STORING_MS: Final = 120_000
"""How long an upload or enrolment may take to store its object and its row.

What takes longer is refused and removed, and may be sent again: an upload of 20 files to a store
that answers each just in time. With a longer time-out of the store, it is that much longer.
"""

HOLD_MS: Final = 120_000
"""How long a backup keeps objects from being removed without being renewed."""


@dataclass(frozen=True)
class Rules:
    """What those who claim images and those who repair their rows go by alike.

    What ends in a fault is tried ``max_attempts`` times. A claim that is not renewed is over after
    ``lease_ms``.
    """

    max_attempts: int = MAX_ATTEMPTS
    lease_ms: int = LEASE_MS

    @property
    def latest_due_ms(self) -> int:
        """No image is due later than this: a lease is the longest wait."""
        return self.lease_ms + NUDGE_MS
