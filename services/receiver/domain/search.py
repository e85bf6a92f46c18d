"""Stored faces that are near to one."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.common.faces import Box, SeenFace


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
    looked for; for a stored face there are none, and ``searched`` is None.
    """

    faces: tuple[PictureFace, ...]
    searched: int | None
    found: tuple[FoundFace, ...]


@dataclass(frozen=True)
class DetectedFaces:
    """A picture's faces, largest first, as an engine sees them."""

    engine: str
    faces: Sequence[SeenFace]


@dataclass(frozen=True)
class FaceNow:
    """What a stored face's row says now; ``person`` is None for somebody unknown."""

    box: Box
    person: str | None
    person_id: int | None
