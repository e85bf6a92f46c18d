"""How the receiver and what it needs stand."""

from dataclasses import dataclass
from typing import Final

from services.common.image_states import Status
from services.frontend.domain.documents import ReceiverDocument
from services.frontend.domain.errors import ReceiverAwayError
from services.frontend.domain.words import counted

_MEANINGS: Final = {
    "database": "The database is away. Pictures can be neither shown nor accepted.",
    "object store": "The picture store is away. Pictures can be neither opened nor uploaded.",
    "face_recog": "The face recogniser is away. Pictures are accepted and wait until it is back.",
    "queue": "The queue is away. Pictures are accepted; processing starts a little later.",
}


class Encoding(ReceiverDocument):
    """Whether stored faces are being prepared for comparing, and in how many pictures yet."""

    state: str
    images_left: int | None

    @property
    def note(self) -> str | None:
        """Return what there is to say of it."""
        if not self.images_left or self.state == "finished":
            return None
        pictures = counted(self.images_left, "picture")
        if self.state == "stopped":
            return f"Preparing the faces of older pictures is stopped, with {pictures} to go."
        return f"The faces of older pictures are being prepared: {pictures} to go."


class Backup(ReceiverDocument):
    """How the backups stand."""

    last_good_seconds: float | None
    is_old: bool
    error: str | None

    @property
    def note(self) -> str | None:
        """Return what there is to say of them."""
        # Why is for administrators alone: it names servers, buckets and users.
        failed = " The last one failed; see /status." if self.error else ""
        if self.last_good_seconds is None:
            return f"There is no good backup.{failed}" if self.is_old or failed else None
        if not self.is_old:
            return failed.strip().replace("one", "backup", 1) or None
        days = counted(round(self.last_good_seconds / 86_400), "day")
        return f"The last good backup is {days} old.{failed}"


class StatusReport(ReceiverDocument):
    """How many pictures are in each state, if the database says it, and what is away and why."""

    images: dict[Status, int] | None
    oldest_pending_seconds: float | None
    encoding: Encoding | None = None  # an older receiver says nothing of it
    backup: Backup | None = None  # likewise
    problems: dict[str, str]

    @property
    def note(self) -> str | None:
        """Return what there is to say that wants nothing of a visitor."""
        notes = (part.note for part in (self.backup, self.encoding) if part)
        return " ".join(filter(None, notes)) or None


@dataclass(frozen=True)
class AwayPart:
    """Something that is away: what it means for people, and the technical reason."""

    name: str
    message: str
    reason: str


def away_parts(report: object, *answers: object) -> list[AwayPart]:
    """Return what is away: what a report of the receiver says, else the errors of other calls."""
    if isinstance(report, StatusReport) and report.problems:
        return [
            AwayPart(name, _MEANINGS.get(name, f"Not available: {name}."), reason)
            for name, reason in sorted(report.problems.items())
        ]
    for answer in (report, *answers):
        if isinstance(answer, ReceiverAwayError):
            return [AwayPart("receiver", answer.problem, answer.reason)]
    return []
