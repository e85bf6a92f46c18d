"""Images, people and the rules for what clients send.

ReceiverError
├── NotFoundError   the thing that is named does not exist
├── ConflictError   its state does not allow the request
├── BusyError       too much waits or is in memory; the same request works later
└── InvalidError    the request can never work; ``faults`` names each wrong part

The message of each is meant for the client.
"""

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Final, NamedTuple

from services.common.events import Position
from services.common.faces import (
    MIN_SIDE,
    MOST_FACES,
    Box,
    DecidedBy,
    MeasuredFace,
    SeenFace,
)
from services.common.images import (
    CONTROL,
    FINAL,
    RETRIABLE,
    UPLOADS,
    Status,
    check_path,
    folder_of,
)
from services.common.names import MAX_NAME_LENGTH, InvalidNameError, check_name, check_who
from services.common.picture_formats import format_of
from services.common.quality import Flaw
from services.common.thumbnails import (
    OF_IMAGES,
    OF_KNOWN,
    FacePlace,
    face_thumbnail_key,
    thumbnail_key,
)

MAX_BATCH: Final = 1000
"""Paths in one bulk submission."""

MAX_FILES: Final = 20
"""Files in one upload."""

MAX_FILE_NAME_LENGTH: Final = 255
"""Characters that are kept of an uploaded file's name: the end, which holds the extension."""


LAST_ID: Final = 2**63 - 1
"""The largest that a row can have."""

LAST_INDEX: Final = 10_000
"""The largest that may be asked for of a face; none has one that is over ``MOST_FACES``."""

THUMBNAIL_SIDE: Final = 640
"""Longest side in pixels: a card of the page on a screen of double density."""

PREVIEW_SIDE: Final = 1600
"""Longest side in pixels of the picture on its own page."""

FACE_SIDE: Final = 256
"""Side in pixels of a face among others, on a screen of double density."""


class ReceiverError(Exception):
    """The request was refused."""


class NotFoundError(ReceiverError):
    """What the request names does not exist."""


class ConflictError(ReceiverError):
    """The request does not fit the present state."""


class BusyError(ReceiverError):
    """Too much waits or is in memory already: this would wait too long, or find no room."""


@dataclass(frozen=True)
class Fault:
    """One wrong part of a request; ``pointer`` is where it stands, such as ``/paths/3/path``."""

    pointer: str
    detail: str


class InvalidError(ReceiverError):
    """The request is wrong and will stay so."""

    def __init__(self, message: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class Submission(NamedTuple):  # a tuple: bulk submissions make many
    """A picture to recognise: its key below ``pictures/`` and the name that people see."""

    path: str
    name: str


class Upload(NamedTuple):
    """A picture that is stored under a key that nobody else ever writes, and by its content."""

    path: str
    name: str
    content_digest: str


class Accepted(NamedTuple):
    """A durable row for a submission, and whether it was there before.

    ``sent_back``: it was rejected or dead and is looked at again. ``tag`` is that of the picture
    that its result is about, where somebody may have replaced it since, else None.
    """

    id: int
    path: str
    status: str
    duplicate: bool
    sent_back: bool = False
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A known picture near to a face; 0 is the distance of identical ones.

    ``person_id`` is null of somebody without a row, whose pictures only the object store knows.
    """

    person: str
    image_name: str
    distance: float
    person_id: int | None


@dataclass(frozen=True, slots=True)
class Face(MeasuredFace):
    """One face; ``person`` is null for somebody unknown, and where only a person can tell.

    Such a face is ``ambiguous``, and its ``candidates`` are a question, not a name. ``distance`` is
    null without a name, and for one that was given by hand. ``decided_by`` is who said so.
    ``person_id`` is null, too, while nobody has looked up whose name it is. ``denials`` are the
    names of those whom a person has said that it is not, ``denial_ids`` their ids, in one order.
    What is measured of a face is null in results of before it was. ``drawn``: a person has drawn
    the box, where no machine saw a face.
    """

    index: int
    ambiguous: bool
    person: str | None
    person_id: int | None
    distance: float | None
    decided_by: DecidedBy
    candidates: tuple[Candidate, ...]
    denials: tuple[str, ...]
    denial_ids: tuple[int, ...]
    drawn: bool


@dataclass(frozen=True, slots=True)
class StruckOut:
    """A place of which a person has said that no face is there, or whose face is forgotten."""

    index: int
    box: Box
    forgotten: bool


@dataclass(frozen=True, slots=True)
class Region:
    """A face that a picture file says it shows; ``face`` is the index of the found one it is about.

    ``name`` is null for a face without one. ``box`` is null where the picture has no such place,
    for example since it was cropped. ``problem`` says why one of them is null that should not be.
    """

    name: str | None
    box: Box | None
    face: int | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class EncodedFace:
    """What is in a box of which a person says that it is a face, and by which engine and rule."""

    seen: SeenFace
    engine: str
    calibration: int | None


@dataclass(frozen=True, slots=True)
class Image:
    """A row with its faces; times are milliseconds since the epoch.

    ``tag`` is that of the picture that the result is about, where somebody may have replaced it
    since, else None.
    """

    id: int
    path: str
    name: str
    status: str
    attempt: int
    error: str | None
    created_at: int
    updated_at: int
    processed_at: int | None
    due_at: int | None
    width: int | None
    height: int | None
    engine: str | None
    tag: str | None
    faces: tuple[Face, ...]
    struck_out: tuple[StruckOut, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Images, newest first; ``last_id`` is where the next page starts, None on the last one."""

    images: tuple[Image, ...]
    last_id: int | None


@dataclass(frozen=True, slots=True)
class FaceKey:
    """A face of the result that an image has now."""

    image_id: int
    index: int


@dataclass(frozen=True, slots=True)
class KnownPicture:
    """A known picture of a person; ``image_name`` is its key below ``known_people/``.

    ``face`` is the one that it was cut out of; None for a file of its own, and where nobody noted
    it. That image may be gone.
    """

    id: int
    person_id: int
    person: str
    image_name: str
    created_at: int
    face: FaceKey | None = None

    @property
    def folder(self) -> str:
        """Return where the person's known pictures lie, whatever their name is by now."""
        return folder_of(self.image_name)

    def is_cut_from(self, face: FaceKey, named: int | None) -> bool:
        """Tell whether it shows that face, given its content; ``named``: whom a hand said it is."""
        return self.face == face or (self.face is None and self.person_id == named)


@dataclass(frozen=True, slots=True)
class Somebody:
    """Who is meant; ``id`` is None where no row says so yet.

    ``folder``: where their known pictures lie, or would lie. ``has_name_alone``: faces are theirs
    that have only the name, as older services write it. ``another``: somebody new, whoever else is
    called so; ``beside`` pictures of one who has the name as a folder, and no row.
    """

    id: int | None
    name: str
    folder: str
    has_name_alone: bool = True
    another: bool = False
    beside: bool = False


class NewKnownPicture(NamedTuple):
    """A picture to become known; ``image_name`` is a key that nobody else ever writes."""

    person: Somebody
    image_name: str
    content_digest: str


@dataclass(frozen=True, slots=True)
class FaceOfResult:
    """A face of the result that an image had at that time, in ms since the epoch."""

    image_id: int
    index: int
    processed_at: int | None


@dataclass(frozen=True, slots=True)
class PictureFace:
    """A face of a picture that is looked at and not kept."""

    index: int
    box: Box


@dataclass(frozen=True, slots=True)
class FoundFace:
    """A stored face that is near to one; 0 is the distance of identical encodings.

    ``strangers`` is how many of a million pairs of strangers are as near. ``person`` is null for
    somebody unknown.
    """

    image_id: int
    face_index: int
    box: Box
    person: str | None
    person_id: int | None
    distance: float
    strangers: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What was looked for, and the stored faces that are near to it, nearest first.

    ``faces`` are those of an uploaded picture, largest first, of which the ``searched`` one was
    looked for; null for a stored face.
    """

    faces: tuple[PictureFace, ...]
    searched: int | None
    found: tuple[FoundFace, ...]


class StoredPicture(NamedTuple):
    """Where an image's picture is, below ``pictures/``, and whether only uploads write there.

    Of another path ``tag`` is that of the picture that the result is about, None when not known.
    """

    path: str
    uploaded: bool
    tag: str | None


class StoredFace(NamedTuple):
    """Where a face is, and in which picture."""

    picture: StoredPicture
    box: Box


class Thumbnail(NamedTuple):
    """A small version of a picture: its key, and its longest side in pixels.

    With a ``box`` it shows the square around that alone. The key is the picture's own for good, and
    the box's, whatever is stored there, so a deletion knows it.
    """

    key: str
    side: int
    box: Box | None = None


def image_thumbnails(image_id: int) -> tuple[Thumbnail, Thumbnail]:
    """Return the versions of an image's picture: one for a list, one for a page of its own."""
    small, large = (
        Thumbnail(thumbnail_key(OF_IMAGES, image_id, side), side)
        for side in (THUMBNAIL_SIDE, PREVIEW_SIDE)
    )
    return small, large


def known_thumbnail(picture_id: int) -> Thumbnail:
    """Return the version of a known picture for a list."""
    return Thumbnail(thumbnail_key(OF_KNOWN, picture_id, THUMBNAIL_SIDE), THUMBNAIL_SIDE)


def face_thumbnails(image_id: int, boxes: Iterable[Box]) -> list[Thumbnail]:
    """Return the versions of an image's faces: whoever takes faces away has them removed, too."""
    return [
        Thumbnail(face_thumbnail_key(FacePlace(image_id, box), FACE_SIDE), FACE_SIDE, box)
        for box in boxes
    ]


class Removal(NamedTuple):
    """An object that is to go: its whole key, and its tag if only that one is to go."""

    key: str
    tag: str | None


class Merge(NamedTuple):
    """Somebody of that name was said to be this person, in ms since the epoch."""

    id: int
    name: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who can be recognised; the id stays when the name changes.

    ``face`` stands for them: the one that somebody chose, else any; None without a face of theirs.
    ``merges`` can be taken back; where several people are told of, they are left out.
    """

    id: int
    name: str
    hidden: bool
    face: FaceKey | None
    pictures: tuple[KnownPicture, ...]
    merges: tuple[Merge, ...] = ()


class Copy(NamedTuple):
    """A known picture, and what it was copied to; both are names below ``known_people/``.

    ``image_name`` is None when the object is lost. ``tag`` is that of an original that was put
    there by hand; None of one with a row.
    """

    original: str
    image_name: str | None
    tag: str | None


class Merged(NamedTuple):
    """Who was said to be somebody else: their id then, and the known pictures that went over.

    Those are only the ones that are still that person's. ``is_free``: the folder is nobody's.
    """

    person_id: int
    name: str
    folder: str
    is_free: bool
    image_names: Sequence[str]
    begun: bool


class PersonKey(NamedTuple):
    """A person's place in a list by name; others may have the name, too."""

    name: str
    id: int


@dataclass(frozen=True, slots=True)
class PeoplePage:
    """People by name; ``last`` is whom the next page starts behind, None on the last one."""

    people: tuple[Person, ...]
    last: PersonKey | None


class Pair(NamedTuple):
    """A place in a list that two numbers tell: a group's size and id, or a face's image and index.

    Where a page ends, and the next one starts behind.
    """

    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Group:
    """Unknown faces that are one person's, as far as their encodings tell: some of them.

    ``last`` is the place of the last one, None when there are no more.
    """

    id: int
    size: int
    faces: tuple[FaceKey, ...]
    last: Pair | None = None


@dataclass(frozen=True, slots=True)
class GroupPage:
    """Groups, largest first; ``last`` is the place of the last one, None on the last page."""

    groups: tuple[Group, ...]
    last: Pair | None


@dataclass(frozen=True, slots=True)
class Member:
    """An unknown face in a group, as it was in the result of that time; ``quality`` from 0 to 1."""

    key: FaceKey
    processed_at: int | None
    quality: float


class Answer(StrEnum):
    """What a person says to a question whether two are the same."""

    YES = "yes"
    NO = "no"
    LATER = "later"


@dataclass(frozen=True, slots=True)
class Question:
    """Whether a group, and another one or a person, are the same; higher is more alike."""

    id: int
    likeness: float
    group: Group
    other: Group | None
    person_id: int | None


@dataclass(frozen=True, slots=True)
class NamedGroup:
    """Who a group is, and how many of its faces got the name."""

    person: str
    person_id: int
    faces: int


class Change(NamedTuple):
    """An image or a person has changed: its ``status`` now, or their ``name``; None: it is gone.

    ``kind`` is an ``EventKind``; ``position`` is that of whoever knows of this change.
    """

    position: Position
    kind: str
    id: int
    status: str | None
    name: str | None


class Changes(NamedTuple):
    """Changes in order, the position of whoever knows of them all, and whether there are more."""

    changes: Sequence[Change]
    position: Position
    more: bool


@dataclass(frozen=True, slots=True)
class Delivery:
    """What an endpoint of webhooks is to be told; times are milliseconds since the epoch.

    ``due_at`` is None when it is delivered or given up.
    """

    id: int
    message_id: str
    endpoint: str
    type: str
    subject_id: int
    status: str
    attempt: int
    error: str | None
    created_at: int
    updated_at: int
    due_at: int | None


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Deliveries, newest first; ``last_id`` is where the next page starts, None on the last one."""

    deliveries: tuple[Delivery, ...]
    last_id: int | None


@dataclass(frozen=True, slots=True)
class StatusReport:
    """Rows per status and the age in seconds of the oldest that waits."""

    images: dict[str, int]
    oldest_pending_seconds: float | None


class EncodingState(StrEnum):
    """Whether stored faces are being given encodings."""

    RUNNING = "running"
    STOPPED = "stopped"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class EncodingReport:
    """How far stored faces are with encodings of the engine in use.

    ``engine`` is None until face_recog has said it, ``images_left`` while they are counted;
    ``images_skipped`` and ``faces_encoded`` are of this pass through all images, or the last.
    """

    state: EncodingState
    engine: str | None
    images_left: int | None
    images_skipped: int
    faces_encoded: int


def submission_of_path(path: str) -> Submission:
    """Return the submission of a picture that is in the store already.

    One leading slash is taken away, which a client may write that thinks of the pictures as a file
    system. Raises ``InvalidPathError``.
    """
    path = check_path(path.removeprefix("/"))
    return Submission(path, path[-MAX_FILE_NAME_LENGTH:])


_UNPRINTABLE: Final = re.compile(rf"[{CONTROL}\ud800-\udfff]")


def upload_of(filename: str, content: bytes) -> Upload:
    """Return the upload of a file, to be stored under a path that was never used."""
    name = _UNPRINTABLE.sub("", filename)[-MAX_FILE_NAME_LENGTH:]
    content_digest = digest(content)
    return Upload(f"{UPLOADS}{_unique(content_digest)}", name or "picture", content_digest)


def new_known_picture(person: Somebody, content: bytes) -> NewKnownPicture:
    """Return a known picture to be stored in a person's folder under a name that was never used.

    The recogniser has found a face, so the content has one of the formats that it reads.
    """
    content_digest = digest(content)
    found = format_of(content)
    if found is None:
        raise InvalidError("the content has no format that is known")
    return NewKnownPicture(
        person, f"{person.folder}/{_unique(content_digest)}.{found.extension}", content_digest
    )


def name_of_copy(folder: str, image_name: str, content: bytes) -> str:
    """Return a name in a folder, that was never used, for a copy of a known picture."""
    found = format_of(content)
    extension = f".{found.extension}" if found else PurePosixPath(image_name).suffix
    return f"{folder}/{_unique(digest(content))}{extension}"


def _unique(content_digest: str) -> str:
    """Return a name that is never given twice, so what happens late to one harms no other."""
    return f"{content_digest}.{secrets.token_hex(8)}"


def digest(content: bytes) -> str:
    """Return the SHA-256 of the content in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def check_person(name: str) -> str:
    """Return the name as it is kept, or raise :class:`InvalidError`; see ``common/names.py``."""
    try:
        return check_name(name)
    except InvalidNameError as error:
        raise InvalidError(str(error)) from None


def check_who_is_meant(who: str) -> str:
    """Return a name or ``~id`` as it is kept, or raise :class:`InvalidError`."""
    try:
        return check_who(who)
    except InvalidNameError as error:
        raise InvalidError(str(error)) from None


_ADVICE: Final[Mapping[str, str]] = {
    Flaw.SMALL: "choose a picture that shows it larger",
    Flaw.BLURRED: "choose a sharper picture",
    Flaw.TURNED: "choose a picture from the front",
    Flaw.DARK: "choose one with more light",
    Flaw.OVEREXPOSED: "choose one with less light",
    Flaw.PALE: "choose one with more contrast",
}


def check_fit(person: str, face: SeenFace, taken_for: str | None) -> None:
    """Raise :class:`InvalidError` when a face had better not become a known one of a person.

    ``taken_for`` is somebody else whose name it would get. Somebody may insist on it.
    """
    doubts = []
    if face.quality and (flaw := face.quality.flaw):
        advice = _ADVICE.get(flaw, "choose another picture")
        doubts.append(f"the face is {flaw}: {advice}")
    if face.like_person is False:
        doubts.append(f"the face does not look like the other pictures of {person!r}")
    if taken_for:
        doubts.append(f"the face looks like {taken_for!r}, who is known: check the name")
    if doubts:
        raise InvalidError("; ".join(doubts), [Fault(INSIST, "enrols it nevertheless, if true")])


INSIST: Final = "/query/insist"
"""The pointer of a fault that the parameter ``insist`` overrules."""


def encode_cursor(last_id: int) -> str:
    """Return the cursor of the page after this image."""
    return f"{last_id:016x}"


def decode_cursor(cursor: str) -> int:
    """Return the id before which the page starts, or raise :class:`InvalidError`."""
    if not re.fullmatch(CURSOR, cursor):
        reason = "cursor is not what an earlier page gave as its next_cursor"
        raise InvalidError(reason, [Fault("/query/cursor", reason)])
    return int(cursor, 16)


CURSOR: Final = "^[0-7][0-9a-f]{15}$"
"""Exactly the numbers that an id can be."""


def encode_pair(last: Pair) -> str:
    """Return the cursor of the page behind this place."""
    return f"{last.first:016x}-{last.second:016x}"


def decode_pair(cursor: str) -> Pair:
    """Return behind which place the page starts, or raise :class:`InvalidError`."""
    if not re.fullmatch(PAIR_CURSOR, cursor):
        reason = "cursor is not what an earlier page gave as its next_cursor"
        raise InvalidError(reason, [Fault("/query/cursor", reason)])
    first, second = cursor.split("-")
    return Pair(int(first, 16), int(second, 16))


PAIR_CURSOR: Final = "^[0-7][0-9a-f]{15}-[0-7][0-9a-f]{15}$"


def encode_person_cursor(last: PersonKey) -> str:
    """Return the cursor of the page after this person; no name has a slash."""
    return f"{last.name}/{last.id}"


def decode_person_cursor(cursor: str) -> PersonKey:
    """Return whom the page starts behind; a receiver of before gives everybody of a name at once.

    It is one that matches ``PERSON_CURSOR``.
    """
    name, slash, number = cursor.partition("/")
    return PersonKey(name, min(int(number), LAST_ID) if slash else LAST_ID)


PERSON_CURSOR: Final = rf"^[^/]{{0,{MAX_NAME_LENGTH}}}(/[0-9]{{1,19}})?$"


def check_recognisable(image: Image) -> None:
    """Raise :class:`ConflictError` for an image that a person may not have looked at again.

    A new result would forget what a person said of a face of the old one.
    """
    if image.status not in FINAL:
        raise ConflictError(f"image {image.id} is {image.status}: it is being looked at anyway")
    named = [face for face in image.faces if face.decided_by is DecidedBy.HAND]
    denied = [face for face in image.faces if face.denials]
    drawn = [face for face in image.faces if face.drawn]
    if named or denied or drawn or image.struck_out:
        raise ConflictError(
            f"image {image.id} is not looked at again: that would forget what was said by hand, "
            + ", ".join(
                [f"{face.person!r} as face {face.index}" for face in named]
                + [f"not {one!r} as face {face.index}" for face in denied for one in face.denials]
                + [f"face {face.index} was drawn" for face in drawn]
                + [
                    f"face {one.index} is {'to stay forgotten' if one.forgotten else 'none'}"
                    for one in image.struck_out
                ]
            )
        )


_SAME: Final = 0.5
"""Share of what two boxes cover that both do, from which on they are of one face: those of two
faces that touch have next to none in common."""


def check_drawable(image: Image, box: Box) -> None:
    """Raise a ``ReceiverError`` for a box that cannot be a face of an image's result."""
    if image.status != Status.PROCESSED:
        raise ConflictError(
            f"image {image.id} is {image.status}: a face is drawn once it is processed"
        )
    across, down = box.right - box.left, box.bottom - box.top
    if across < MIN_SIDE or down < MIN_SIDE:
        reason = (
            f"the box is {across} x {down} pixels: a face has at least {MIN_SIDE} on a side, left"
            " is less than right, and top less than bottom"
        )
        raise InvalidError(reason, [Fault("/box", reason)])
    if image.width and image.height and (box.right > image.width or box.bottom > image.height):
        reason = (
            f"the box reaches to ({box.right}, {box.bottom}), beyond the picture, which has"
            f" {image.width} x {image.height} pixels"
        )
        raise InvalidError(reason, [Fault("/box", reason)])
    check_free(image.id, box, {face.index: face.box for face in image.faces})
    check_room(image.id, len(image.faces) + len(image.struck_out))


def check_free(image_id: int, box: Box, faces: Mapping[int, Box]) -> None:
    """Raise :class:`ConflictError` where one of an image's faces, by their numbers, is already."""
    for index, its in faces.items():
        if box.share(its) >= _SAME:
            raise ConflictError(f"that is face {index} of image {image_id}: name it")


def check_room(image_id: int, faces: int) -> None:
    """Raise :class:`ConflictError` for an image that has as many faces as it may have.

    Those that were struck out count: they keep their numbers.
    """
    if faces >= MOST_FACES:
        raise ConflictError(
            f"image {image_id} has {faces} faces, with those that were struck out: no more is drawn"
        )


def check_retriable(image_id: int, status: str) -> None:
    """Raise :class:`ConflictError` for a status that a person may not send back to pending."""
    if status not in RETRIABLE:
        raise ConflictError(
            f"image {image_id} is {status}; only rejected and dead images can be tried again"
        )
