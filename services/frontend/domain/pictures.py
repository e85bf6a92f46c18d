"""Submitted pictures, and how they stand in words."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from services.common.image_states import FINAL, RETRIABLE, Status
from services.common.object_keys import UPLOADS
from services.frontend.domain.documents import ReceiverDocument
from services.frontend.domain.faces import Face, FaceKind, StruckOut
from services.frontend.domain.words import fingerprint, sentence

PICTURES_ON_A_PAGE: Final = 24
"""Fills whole rows of 2, 3, 4, 6 and 8 cards."""

OPEN: Final = frozenset(Status) - FINAL
"""The states that change without a person."""

STATUS_WORDS: Final[dict[str, str]] = {
    Status.PENDING: "Waiting",
    Status.PROCESSING: "Processing",
    Status.PROCESSED: "Processed",
    Status.FAILED: "Retrying",
    Status.REJECTED: "Rejected",
    Status.DEAD: "Gave up",
}


class SubmittedPicture(ReceiverDocument):
    """One submitted picture. ``width`` and ``height`` are known once it was processed."""

    id: int
    path: str
    name: str
    status: str  # a newer receiver may have more of them than ``Status``
    attempt: int
    error: str | None
    created_at: datetime
    updated_at: datetime
    processed_at: datetime | None
    next_attempt_at: datetime | None
    width: int | None
    height: int | None
    engine: str | None
    faces: tuple[Face, ...]
    struck_out: tuple[StruckOut, ...] | None = None  # an older receiver draws none either

    @property
    def title(self) -> str:
        """Return a name that is never empty."""
        return self.name.strip() or f"Picture {self.id}"

    @property
    def status_word(self) -> str:
        """Return the status for people."""
        return STATUS_WORDS.get(self.status, self.status)

    @property
    def can_retry(self) -> bool:
        """Tell whether a person may send it back to waiting."""
        return self.status in RETRIABLE

    @property
    def can_recognise(self) -> bool:
        """Tell whether a person may have a new result made, which forgets what was said by hand."""
        by_hand = any(face.is_by_hand or face.denials or face.drawn for face in self.faces)
        return self.status == Status.PROCESSED and not by_hand and not self.struck_out

    @property
    def can_draw(self) -> bool:
        """Tell whether a person may add a face to the result, and strike one out."""
        return self.status == Status.PROCESSED and bool(self.size) and self.struck_out is not None

    @property
    def is_open(self) -> bool:
        """Tell whether its status will change by itself."""
        return self.status in OPEN

    @property
    def size(self) -> tuple[int, int] | None:
        """Return width and height in pixels, if known."""
        return (self.width, self.height) if self.width and self.height else None

    @property
    def summary(self) -> str:
        """Say in one sentence how it stands."""
        sentences: dict[str, str] = {
            Status.PENDING: "Waiting for its turn.",
            Status.PROCESSING: "Looking for faces.",
            Status.PROCESSED: _count_faces(self.faces),
            Status.FAILED: f"Attempt {self.attempt} failed and will be repeated. {self.reason}",
            Status.REJECTED: f"This picture cannot be used. {self.reason}",
            Status.DEAD: f"Stopped after {self.attempt} attempts. {self.reason}",
        }
        return sentences.get(self.status, "A newer version of Facestack is at work on it.")

    @property
    def reason(self) -> str:
        """Say why it has no result, as a sentence; empty when nothing went wrong."""
        if self.status not in {Status.FAILED, Status.REJECTED, Status.DEAD}:
            return ""
        return sentence(self.error or "no reason was given")

    @property
    def content_version(self) -> str:
        """Return a text that changes when the picture behind the same id may have changed.

        Empty while it may change at any time: an upload's path is the hash of its content, but
        another path can be given new content, which is read when the picture is retried.
        """
        if self.path.startswith(UPLOADS):
            return fingerprint(self.path, "")
        return fingerprint(self.path, str(self.processed_at)) if self.processed_at else ""


class PicturePage(ReceiverDocument):
    """Some pictures, newest first, and the cursor of those behind them."""

    images: tuple[SubmittedPicture, ...]
    next_cursor: str | None


class Accepted(ReceiverDocument):
    """The answer to one uploaded picture."""

    id: int
    status: str
    duplicate: bool


class AcceptedList(ReceiverDocument):
    """The answer to uploaded pictures, in their order."""

    images: tuple[Accepted, ...]


def _count_faces(faces: Sequence[Face]) -> str:
    if not faces:
        return "No face in this picture."
    words: dict[FaceKind, str] = {"known": "known", "ambiguous": "not sure", "unknown": "unknown"}
    if len(faces) == 1:
        return f"1 face, {words[faces[0].kind]}."
    counts = Counter(face.kind for face in faces)
    parts = [f"{counts[kind]} {word}" for kind, word in words.items() if counts[kind]]
    return f"{len(faces)} faces: {', '.join(parts)}."
