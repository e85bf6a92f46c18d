"""What an attempt at an image can end in, what that makes of its row, and how encoding goes on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, assert_never

from services.common.claims import RING_AFTER_MS, Rules
from services.common.faces import Box, SeenFace
from services.common.image_states import Status

RENEW_SECONDS: Final = 10.0
"""One renewal may fail before the lease is over."""

MAX_LONG: Final = 8
"""So many pictures that need long are worked on beside the others, each of up to 20 MiB."""

LOOK_AGAIN_MS: Final = 3_600_000
"""Faces that older versions store in a rollout have no encoding either."""

LOOK_SELDOM_MS: Final = 24 * 3_600_000
"""After a pass that only skipped: what it could not encode will hardly be another picture soon."""

REMOVE_AFTER_MS: Final = 24 * 3_600_000
"""Since the engine changed, or another one answered last: until then it may be taken back."""

PEOPLE_AT_ONCE: Final = 10
"""For whom all faces are decided again at a time: a change of a person waits behind no more."""

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
class _NotProcessed:
    """Why there is no result."""

    reason: str


class Rejected(_NotProcessed):
    """The content can never work."""


class Failed(_NotProcessed):
    """A fault that may pass: the next attempt waits longer than the last one."""


class Unanswered(_NotProcessed):
    """A recogniser that works did not answer: the attempt counts, the next one need not wait."""


class Released(_NotProcessed):
    """No fault of the picture: the attempt is given back. The reason is for the log."""


Outcome = Processed | Rejected | Failed | Unanswered | Released


@dataclass(frozen=True)
class Transition:
    """What an outcome makes of the row; it is due in so many ms, or never again."""

    status: Status
    attempt: int
    due_in: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Backoff:
    """Pauses between failed attempts, in ms: each is twice the one before.

    Rows are due after them and no process waits, so a library of retries has no place here.
    """

    first_ms: int = 2_000
    longest_ms: int = 20_000

    def after(self, attempt: int, random: Random) -> int:
        """Return the pause after a failed attempt, the first being 1; a fifth more or less."""
        pause = self.first_ms * 2.0 ** (attempt - 1) * (0.8 + 0.4 * random())
        return int(min(pause, self.longest_ms))


def transition(
    claim: Claim, outcome: Outcome, *, random: Random, rules: Rules, backoff: Backoff
) -> Transition:
    """Return what the outcome makes of the claimed row."""
    attempt = claim.attempt
    if isinstance(outcome, Processed):
        return Transition(Status.PROCESSED, attempt)
    error = outcome.reason[:_MAX_ERROR_LENGTH]
    match outcome:
        case Rejected():
            return Transition(Status.REJECTED, attempt, error=error)
        case Failed() | Unanswered() if attempt >= rules.max_attempts:
            return Transition(Status.DEAD, attempt, error=error)
        case Failed():
            return Transition(Status.FAILED, attempt, backoff.after(attempt, random), error)
        case Unanswered():
            return Transition(Status.PENDING, attempt, RING_AFTER_MS, error)
        case Released():
            return Transition(Status.PENDING, attempt - 1, RING_AFTER_MS)
        case _:
            assert_never(outcome)


@dataclass(frozen=True)
class BreakerLimits:
    """After how many faults in a row the breaker opens, and how long it cools down then.

    In seconds; the longest includes the jitter.
    """

    faults: int = 5
    first_cool_down: float = 1.0
    longest_cool_down: float = 15.0


@dataclass(frozen=True)
class EncodingProgress:
    """How far the encoding of stored faces is.

    ``halted``: somebody stopped it, or new pictures are there. ``to_count``: it is not known
    whether there is anything to do; ``to_walk``: there is, in images behind ``after``.
    ``removal_due``: it is time to remove the encodings of other engines, if all that there was is
    done. ``to_decide``: people are to be looked for among what was encoded.
    """

    engine: str | None
    halted: bool
    after: int
    images_left: int
    to_count: bool
    to_walk: bool
    removal_due: bool
    to_decide: bool
    last_image_id: int


@dataclass(frozen=True)
class FacesToEncode:
    """The boxes of the faces of an image's result that lack an encoding, by their numbers.

    ``tag`` is that of the object that the result is about; None when it is not known. Nobody
    replaces what was ``uploaded``.
    """

    image_id: int
    path: str
    uploaded: bool
    tag: str | None
    processed_at: int | None
    boxes: Mapping[int, Box]


@dataclass(frozen=True)
class Encoded:
    """An encoding for each box, None where the engine made none; see ``common/faces.py``."""

    engine: str
    encodings: tuple[bytes | None, ...] = field(repr=False)


@dataclass(frozen=True)
class Skipped:
    """The faces of a picture cannot be encoded; ``reason`` is what metrics call it."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Postponed:
    """The faces of a picture are encoded later."""
