"""What the pages show: pictures, faces and people in words, and where a box is drawn.

The models mirror the receiver's answers.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from services.common.faces import CLOSE, Box, DecidedBy, MeasuredFace
from services.common.images import FINAL, RETRIABLE, UPLOADS, Status
from services.common.names import by_id

PAGE_SIZE: Final = 24
"""Fills whole rows of 2, 3, 4, 6 and 8 cards; of people it is a screen or two."""

SUGGESTED: Final = 100
"""Names that a page has to choose from; of more people they follow what is typed."""

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

VERY_CLOSE: Final = 0.40
"""Largest distance called "very close"; up to ``CLOSE`` it is "close", beyond that the faces are
alike, but not much."""

FaceKind = Literal["known", "ambiguous", "unknown"]


class ReceiverAwayError(Exception):
    """The receiver, or what it needs, did not answer; the same call may work later."""


class NotNowError(ReceiverAwayError):
    """The receiver answered that it cannot serve now; the message says why, for people."""


class RefusedError(Exception):
    """The receiver refused the request; ``message`` says why, for people.

    ``status`` is the HTTP status of its answer, 400..499; ``can_insist`` says that it is only a
    doubt, which a person may overrule.
    """

    def __init__(self, status: int, message: str, *, can_insist: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.can_insist = can_insist


@dataclass(frozen=True)
class Somebody:
    """A person's name, and what the receiver knows them by, which no two have."""

    who: str
    name: str


class Model(BaseModel):
    """What a receiver answers; it may say more, as a newer one does."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Candidate(Model):
    """A known picture near a face; a smaller distance is more alike."""

    person: str
    person_id: int | None = None  # an older receiver says none
    image_name: str
    distance: float

    @property
    def who(self) -> str:
        """Return what the receiver knows the person by."""
        return self.person if self.person_id is None else by_id(self.person_id)

    @property
    def closeness(self) -> str:
        """Return the distance in words."""
        return closeness(self.distance)


@dataclass(frozen=True, kw_only=True)
class Face(MeasuredFace):
    """One face of a picture."""

    index: int
    ambiguous: bool
    person: str | None
    person_id: int | None = None
    distance: float | None
    decided_by: str | None = None  # an older receiver does not say it
    candidates: tuple[Candidate, ...]
    drawn: bool = False
    denials: tuple[str, ...] | None = None  # an older receiver takes none
    denial_ids: tuple[int, ...] | None = None  # an older receiver finds nobody by id

    @property
    def who(self) -> str | None:
        """Return what the receiver knows the person by; None without a name."""
        if self.person is None or self.person_id is None or self.denial_ids is None:
            return self.person
        return by_id(self.person_id)

    @property
    def is_by_hand(self) -> bool:
        """Tell whether a person has said who it is."""
        return self.decided_by == DecidedBy.HAND

    @property
    def deniable(self) -> Somebody | None:
        """Return whom the machine says or asks that it is; a person may say that it is not."""
        if self.denials is None or self.is_by_hand or self.kind == "unknown":
            return None
        if self.person is not None and self.who is not None:
            return Somebody(self.who, self.person)
        return Somebody(self.candidates[0].who, self.candidates[0].person)

    @property
    def denied(self) -> tuple[Somebody, ...]:
        """Return whom a person has said that it is not."""
        names = self.denials or ()
        if self.denial_ids is None:
            return tuple(Somebody(name, name) for name in names)
        return tuple(
            Somebody(by_id(one), name) for one, name in zip(self.denial_ids, names, strict=True)
        )

    @property
    def kind(self) -> FaceKind:
        """Tell how sure the name is; ambiguous, it is none but a question."""
        if self.ambiguous and (self.person or self.candidates):
            return "ambiguous"
        return "known" if self.person else "unknown"

    @property
    def label(self) -> str:
        """Return the name as a box shows it; the question mark says that it is none yet."""
        if self.kind == "ambiguous":
            return f"{self.person or self.candidates[0].person}?"
        return self.person or "Unknown"

    @property
    def origin(self) -> str:
        """Say in a few words where the name comes from."""
        if self.distance is None:
            return "Named by hand"
        return f"Match: {closeness(self.distance)}"

    @property
    def explanation(self) -> str:
        """Say in words how the name came about."""
        others = [c for c in self.candidates if c.person != self.person]
        if self.kind == "unknown":
            return "Nobody known looks like this face."
        if self.person is None:
            return "It may be somebody known, but others look as much alike: please say who it is."
        if self.distance is None:
            return "Named by hand."
        if not self.ambiguous:
            return f"The match is {closeness(self.distance)}."
        if self.distance <= CLOSE and others:
            return (
                f"The match is {closeness(self.distance)},"
                f" but {others[0].person} is nearly as close."
            )
        return "The match is uncertain: the faces are alike, but not much."


class StruckOut(Model):
    """A place of which a person has said that no face is there."""

    index: int
    box: Box


class Picture(Model):
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
        reason = (self.error or "no reason was given").strip()
        reason = reason[:1].upper() + reason[1:]
        return reason if reason.endswith((".", "!", "?")) else f"{reason}."

    @property
    def content_version(self) -> str:
        """Return a text that changes when the picture behind the same id may have changed.

        Empty while it may change at any time: an upload's path is the hash of its content, but
        another path can be given new content, which is read when the picture is retried.
        """
        if self.path.startswith(UPLOADS):
            return fingerprint(self.path, "")
        return fingerprint(self.path, str(self.processed_at)) if self.processed_at else ""

    @property
    def version(self) -> str:
        """Return a text that changes with anything that is shown."""
        return fingerprint(self.model_dump_json())


class PicturePage(Model):
    """Some pictures, newest first, and the cursor of those behind them."""

    images: tuple[Picture, ...]
    next_cursor: str | None


class Encoding(Model):
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


class StatusReport(Model):
    """How many pictures are in each state, if the database says it, and what is away and why."""

    images: dict[Status, int] | None
    oldest_pending_seconds: float | None
    encoding: Encoding | None = None  # an older receiver says nothing of it
    problems: dict[str, str]


class KnownPicture(Model):
    """One picture that a person is recognised by."""

    id: int
    image_name: str
    created_at: datetime

    @property
    def content_version(self) -> str:
        """Return a text that changes when the picture behind the same id has changed."""
        return fingerprint(self.image_name)


class FaceKey(Model):
    """A face of a picture."""

    image_id: int
    face_index: int

    @property
    def text(self) -> str:
        """Return it as a form names it."""
        return f"{self.image_id}-{self.face_index}"

    @property
    def thumbnail(self) -> str:
        """Return the address of the face cut out."""
        return f"/images/{self.image_id}/faces/{self.face_index}/thumbnail"


class Merge(Model):
    """Somebody who was said to be the same person, for whoever takes that back."""

    id: int
    name: str
    created_at: datetime


class Person(Model):
    """Somebody with a name and known pictures; ``face`` stands for them."""

    id: int | None = None
    """An older receiver says none, and cannot give another name."""

    name: str
    hidden: bool | None = None
    """An older receiver says nothing of it, and finds nobody by id."""

    face: FaceKey | None = None
    pictures: tuple[KnownPicture, ...]
    merges: tuple[Merge, ...] = ()

    @property
    def who(self) -> str:
        """Return what the receiver knows them by: others may bear the name, too."""
        return self.name if self.id is None or self.hidden is None else by_id(self.id)

    @property
    def key(self) -> str:
        """Return what tells them from all others on a page."""
        return fingerprint(self.who)

    @property
    def count(self) -> str:
        """Say how many known pictures there are."""
        return counted(len(self.pictures), "known picture")

    @property
    def portrait(self) -> str | None:
        """Return the address of a picture that stands for them; None without any."""
        if self.face is not None:
            return self.face.thumbnail
        return self.address_of(self.pictures[0]) if self.pictures else None

    def address_of(self, picture: KnownPicture) -> str:
        """Return the address of a known picture for a card."""
        address = f"/people/{quote(self.who, safe='')}/pictures/{picture.id}/thumbnail"
        return f"{address}?v={picture.content_version}"

    def faces_in(self, picture: Picture) -> tuple[Face, ...]:
        """Return which faces of a picture are theirs."""
        return tuple(
            face
            for face in picture.faces
            if (face.person == self.name if face.person_id is None else face.person_id == self.id)
        )

    @property
    def version(self) -> str:
        """Return a text that changes with anything that is shown."""
        return fingerprint(self.model_dump_json())


class Erased(Model):
    """How much of somebody is forgotten for good."""

    known_pictures: int
    faces: int
    pictures: int

    @property
    def summary(self) -> str:
        """Say it in words."""
        return (
            f"{counted(self.known_pictures, 'known picture')}, {counted(self.faces, 'face')} and"
            f" {counted(self.pictures, 'submitted picture')} are removed, and with them the name."
        )


class PeoplePage(Model):
    """Some people by name, and the cursor of those behind them; an older receiver has none."""

    people: tuple[Person, ...]
    next_cursor: str | None = None

    @property
    def shared(self) -> frozenset[str]:
        """Return the names that several of them bear."""
        counts = Counter(person.name for person in self.people)
        return frozenset(name for name, count in counts.items() if count > 1)


class Accepted(Model):
    """The answer to one uploaded picture."""

    id: int
    status: str
    duplicate: bool


@dataclass(frozen=True)
class Suggestion:
    """Somebody to choose; of people with one name the labels tell who is who."""

    who: str
    name: str
    label: str


@dataclass(frozen=True)
class Suggestions:
    """People to choose from, and whether there are more."""

    people: tuple[Suggestion, ...]
    more: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names to type, each once."""
        return tuple(dict.fromkeys(person.name for person in self.people))


@dataclass(frozen=True)
class Problem:
    """Something that is away: what it means for people, and the technical reason."""

    name: str
    message: str
    reason: str


@dataclass(frozen=True)
class Frame:
    """The part of a picture that a page shows, in pixels; it may reach beyond the picture.

    ``fit`` is the CSS class that makes a browser show exactly this part.
    """

    left: float
    top: float
    width: float
    height: float
    fit: str


@dataclass(frozen=True)
class Mark:
    """A face's box and label within a frame, in percent of the frame."""

    face: Face
    left: float
    top: float
    width: float
    height: float
    label_left: float
    label_top: float
    label_width: float
    label_class: str


def closeness(distance: float) -> str:
    """Put a distance between two faces into words."""
    if distance <= VERY_CLOSE:
        return "very close"
    return "close" if distance <= CLOSE else "uncertain"


def fingerprint(*parts: str) -> str:
    """Return a short text that is the same only for the same parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def counted(number: int, thing: str) -> str:
    """Return how many things there are, in words."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def in_words(time: datetime) -> str:
    """Return a time for people, in UTC."""
    return f"{time.astimezone(UTC):%-d %b %Y, %H:%M} UTC"


_PROBLEMS: Final = {
    "receiver": "The receiver does not answer. Pictures can be neither shown nor accepted.",
    "database": "The database is away. Pictures can be neither shown nor accepted.",
    "object store": "The picture store is away. Pictures can be neither opened nor uploaded.",
    "face_recog": "The face recogniser is away. Pictures are accepted and wait until it is back.",
    "queue": "The queue is away. Pictures are accepted; processing starts a little later.",
}


def describe_problem(name: str, reason: str) -> Problem:
    """Say what it means that a dependency is away."""
    message = _PROBLEMS.get(name, f"Not available: {name}.")
    return Problem(name, message, reason)


def card_frame(picture: Picture, aspect: float) -> Frame | None:
    """Choose the part of a picture that fills a card of this aspect ratio.

    The picture fills the card when all faces stay visible, else it is shown whole.
    None when its size is not known.
    """
    if picture.size is None:
        return None
    width, height = picture.size
    if width / height > aspect:
        size, shown = width, height * aspect
        low = min((face.box.left for face in picture.faces), default=0)
        high = max((face.box.right for face in picture.faces), default=0)
    else:
        size, shown = height, width / aspect
        low = min((face.box.top for face in picture.faces), default=0)
        high = max((face.box.bottom for face in picture.faces), default=0)
    room = size - shown
    if high - low > shown:
        return whole_frame(picture, aspect)
    # Percent in steps of 5, the positions that the style sheet has classes for.
    wanted = (low + high - shown) / 2 if picture.faces else room / 2
    percent = round(min(max(wanted / room, 0), 1) * 20) * 5 if room else 50
    offset = room * percent / 100
    if picture.faces and not offset <= low <= high <= offset + shown:
        return whole_frame(picture, aspect)
    fit = f"cover at-{percent}"
    if width / height > aspect:
        return Frame(offset, 0, shown, height, fit)
    return Frame(0, offset, width, shown, fit)


def whole_frame(picture: Picture, aspect: float) -> Frame | None:
    """Return the smallest frame of this aspect ratio around the whole picture."""
    if picture.size is None:
        return None
    width, height = picture.size
    shown_width = max(width, height * aspect)
    shown_height = shown_width / aspect
    return Frame(
        (width - shown_width) / 2,
        (height - shown_height) / 2,
        shown_width,
        shown_height,
        "contain",
    )


_EDGE: Final = 12.0
"""Percent of a frame's height that a label takes on the smallest screen."""


@dataclass(frozen=True)
class _Area:
    left: float
    top: float
    right: float
    bottom: float

    @property
    def is_on_the_left(self) -> bool:
        """Tell where its label starts; in the right part it ends there, or it would be cut off."""
        return self.left <= 100 - self.right


def marks(faces: Sequence[Face], frame: Frame) -> list[Mark]:
    """Return where the boxes and labels of faces are within a frame."""
    areas = [_area(face.box, frame) for face in faces]
    return [
        _mark(face, area, [other for other in areas if other is not area])
        for face, area in zip(faces, areas, strict=True)
    ]


def _area(box: Box, frame: Frame) -> _Area:
    return _Area(
        (box.left - frame.left) / frame.width * 100,
        (box.top - frame.top) / frame.height * 100,
        (box.right - frame.left) / frame.width * 100,
        (box.bottom - frame.top) / frame.height * 100,
    )


def _mark(face: Face, area: _Area, others: Sequence[_Area]) -> Mark:
    left, right, top, bottom = area.left, area.right, area.top, area.bottom
    # Above the box, or below it where there is no room above, or in it where there is neither.
    if top > _EDGE:
        label_top, place, begin = top, "above", top - _EDGE
    elif bottom < 100 - _EDGE:
        label_top, place, begin = bottom, "below", bottom
    else:
        label_top, place, begin = top, "below", top
    # Beside it, with their labels: a long name ends before them, at the least it has its own box.
    beside = [
        other
        for other in others
        if other.top - _EDGE < begin + _EDGE and other.bottom + _EDGE > begin
    ]
    if area.is_on_the_left:
        side = "start"
        ends = [
            # Two labels that grow towards each other share the room between their boxes.
            other.left if other.is_on_the_left else (right + other.left) / 2
            for other in beside
            if other.left > left
        ]
        label_left = left
        label_width = max(min(ends, default=100.0), right) - left
    else:
        side = "end"
        starts = [
            (other.right + left) / 2 if other.is_on_the_left else other.right
            for other in beside
            if other.right < right
        ]
        label_left = min(max(starts, default=0.0), left)
        label_width = right - label_left
    return Mark(
        face=face,
        left=round(left, 3),
        top=round(top, 3),
        width=round(right - left, 3),
        height=round(bottom - top, 3),
        label_left=round(label_left, 3),
        label_top=round(label_top, 3),
        label_width=round(label_width, 3),
        label_class=f"{place} {side}",
    )


def _count_faces(faces: Sequence[Face]) -> str:
    if not faces:
        return "No face in this picture."
    words: dict[FaceKind, str] = {"known": "known", "ambiguous": "not sure", "unknown": "unknown"}
    if len(faces) == 1:
        return f"1 face, {words[faces[0].kind]}."
    counts = Counter(face.kind for face in faces)
    parts = [f"{counts[kind]} {word}" for kind, word in words.items() if counts[kind]]
    return f"{len(faces)} faces: {', '.join(parts)}."
