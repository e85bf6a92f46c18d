"""Faces of an image's result, and those that a person draws there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.common.faces import MOST_FACES, Box, DecidedBy, MeasuredFace, SeenFace
from services.receiver.domain.errors import ConflictError, NotFoundError

LAST_INDEX: Final = 10_000
"""The largest that may be asked for of a face; none has one that is over ``MOST_FACES``."""


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
class ImageRegion:
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
class FaceKey:
    """A face of the result that an image has now."""

    image_id: int
    index: int


@dataclass(frozen=True, slots=True)
class FaceOfResult:
    """A face of the result that an image had at that time, in ms since the epoch."""

    image_id: int
    index: int
    processed_at: int | None


def no_face(image_id: int, index: int) -> NotFoundError:
    """Return the error of a face that is not there."""
    return NotFoundError(f"image {image_id} has no face {index}")


_SAME: Final = 0.5
"""Share of what two boxes cover that both do, from which on they are of one face: those of two
faces that touch have next to none in common."""


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
