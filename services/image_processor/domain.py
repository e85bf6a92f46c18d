"""What an attempt at an image can end in, and what that makes of its row."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, assert_never

from services.common.faces import SeenFace
from services.common.images import RING_AFTER_MS, Rules, Status

RENEW_SECONDS: Final = 10.0
"""Two renewals in a row may fail before the lease is over."""

MAX_LONG: Final = 8
"""So many pictures that need long are worked on beside the others, each of up to 20 MB."""

_MAX_ERROR_LENGTH: Final = 500  # characters of the column

Random = Callable[[], float]
"""Returns a number in [0, 1)."""


@dataclass(frozen=True)
class Claim:
    """An image that is ours until the lease ends; ``attempt`` counts from 1."""

    image_id: int
    path: str
    attempt: int
    token: str


@dataclass(frozen=True)
class Processed:
    """The picture was recognised; no face, or nobody known, is a result too."""

    faces: tuple[SeenFace, ...]
    width: int
    height: int
    engine: str
    object_tag: str | None = None
    """Of the object that was recognised."""
    calibration: int | None = None
    """The version of what likenesses were held against; None: an older face_recog has answered."""


@dataclass(frozen=True)
class Rejected:
    """The content can never work."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """A fault that may pass: the next attempt waits longer than the last one."""

    error: str


@dataclass(frozen=True)
class Unanswered:
    """A recogniser that works did not answer: the attempt counts, the next one need not wait."""

    error: str


@dataclass(frozen=True)
class Released:
    """The picture was not tried: the attempt is given back. The reason is for the log."""

    reason: str


Outcome = Processed | Rejected | Failed | Unanswered | Released


@dataclass(frozen=True)
class Change:
    """What an outcome makes of the row; it is due in so many ms, or never again."""

    status: Status
    attempt: int
    due_in: int | None
    error: str | None


@dataclass(frozen=True)
class Backoff:
    """Pauses between failed attempts, in ms: each is twice the one before."""

    first_ms: int = 2_000
    longest_ms: int = 20_000

    def after(self, attempt: int, random: Random) -> int:
        """Return the pause after a failed attempt, the first being 1; a fifth more or less."""
        pause = self.first_ms * 2.0 ** (attempt - 1) * (0.8 + 0.4 * random())
        return int(min(pause, self.longest_ms))


def change(
    claim: Claim, outcome: Outcome, *, random: Random, rules: Rules, backoff: Backoff
) -> Change:
    """Return what the outcome makes of the claimed row."""
    last = claim.attempt >= rules.max_attempts
    match outcome:
        case Processed():
            return Change(Status.PROCESSED, claim.attempt, None, None)
        case Rejected(reason):
            return Change(Status.REJECTED, claim.attempt, None, reason[:_MAX_ERROR_LENGTH])
        case Failed(error) | Unanswered(error) if last:
            return Change(Status.DEAD, claim.attempt, None, error[:_MAX_ERROR_LENGTH])
        case Failed(error):
            pause = backoff.after(claim.attempt, random)
            return Change(Status.FAILED, claim.attempt, pause, error[:_MAX_ERROR_LENGTH])
        case Unanswered(error):
            return Change(Status.PENDING, claim.attempt, RING_AFTER_MS, error[:_MAX_ERROR_LENGTH])
        case Released():
            return Change(Status.PENDING, claim.attempt - 1, RING_AFTER_MS, None)
        case _:
            assert_never(outcome)
