"""What every service knows of a face: what a machine sees, who says whose it is, its encoding."""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final, NamedTuple

from services.common.quality import Quality

MAX_NUMBERS: Final = 4096
"""In the largest encoding that an engine may make."""

MOST_FACES: Final = 1000
"""Of one picture, the largest; as they are cut out they take 70 MB. With those that people draw."""

MIN_SIDE: Final = 8
"""Pixels on a side of a box that somebody asks for. Those that are found have more, also where the
picture's edge leaves half of the smallest."""

MAX_FACES: Final = 4096
"""In a request to decide on them: with 100,000 people their comparison takes some seconds."""

CLOSE: Final = 0.5
"""A match at a larger distance is worth a second look."""


class DecidedBy(StrEnum):
    """Who said whose face it is, or that it is nobody's who is known."""

    MACHINE = "machine"
    HAND = "hand"


@dataclass(frozen=True, slots=True)
class Box:
    """Pixels of the upright picture (EXIF orientation applied), origin top left.

    Right and bottom may equal its size.
    """

    left: int
    top: int
    right: int
    bottom: int

    def __str__(self) -> str:
        """Return it as people are told of it."""
        return f"({self.left}, {self.top}, {self.right}, {self.bottom})"

    @property
    def area(self) -> int:
        """Return how many pixels it covers."""
        return (self.right - self.left) * (self.bottom - self.top)

    def share(self, other: "Box") -> float:
        """Return which share of what the two cover, 0 to 1, both do."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        both = max(0, width) * max(0, height)
        return both / max(1, self.area + other.area - both)


class Likely(NamedTuple):
    """Somebody whom a face may be: a known picture, the folder in its name, and how alike.

    A distance of 0 is that of identical ones. ``likeness`` to all of their pictures is None where
    another rule has decided, and when an older face_recog has answered.
    """

    image_name: str
    folder: str
    distance: float
    likeness: float | None = None


@dataclass(frozen=True, slots=True)
class MeasuredFace:
    """What a machine measures of a face, whoever it is.

    Whoever hands a face on hands on all of it, so that what is measured is listed here alone. It
    has the same names in face.proto, in the table of faces and in the receiver's answers. What was
    not always measured is None in results of before, and where an older version has answered.
    """

    box: Box
    detection_score: float
    quality: Quality | None = field(default=None, kw_only=True)


MEASURED: Final = tuple(field.name for field in fields(MeasuredFace))


def measured(face: MeasuredFace) -> MeasuredFace:
    """Return what was measured of a face alone."""
    return MeasuredFace(**{name: getattr(face, name) for name in MEASURED})


@dataclass(frozen=True, slots=True)
class SeenFace(MeasuredFace):
    """A face as face_recog sees it; candidates are likeliest first.

    ``unsure``: none of them is its name, a person is to say. ``encoding`` is None when an older
    face_recog has answered, and where there is none (see :func:`check_encoding`). ``like_person``
    says whether it is like the known pictures of the person who was asked about, None when there
    are none.
    """

    ambiguous: bool
    candidates: tuple[Likely, ...] = ()
    unsure: bool = False
    encoding: bytes | None = field(default=None, repr=False)
    like_person: bool | None = None

    @property
    def named(self) -> Likely | None:
        """Return whose name it gets."""
        return self.candidates[0] if self.candidates and not self.unsure else None

    @property
    def taken_for(self) -> str | None:
        """Return the folder of whom it looks like without a doubt."""
        return self.candidates[0].folder if self.candidates and not self.ambiguous else None


@dataclass(frozen=True)
class Says:
    """What a face's row says of who it is, by a machine; ``candidates`` as in the table."""

    person: str | None
    person_id: int | None
    distance: float | None
    ambiguous: bool
    candidates: Sequence[dict[str, Any]]
    likeness: float | None = None
    calibration: int | None = None


Whose = Mapping[Likely, tuple[int | None, str]]
"""The id and name of who each candidate is: without a row there is none, and the folder is one."""


def says_of(
    candidates: Sequence[Likely],
    whose: Whose,
    calibration: int | None,
    *,
    named: bool,
    ambiguous: bool,
) -> Says:
    """Return what is said of a face with these candidates; ``named``: it is the first of them."""
    first = candidates[0] if candidates else None
    its = first if named else None
    person_id, person = whose[its] if its else (None, None)
    return Says(
        person=person,
        person_id=person_id,
        distance=its.distance if its else None,
        ambiguous=ambiguous,
        candidates=[
            {
                "person": whose[candidate][1],
                "image_name": candidate.image_name,
                "distance": candidate.distance,
            }
            for candidate in candidates
        ],
        likeness=first.likeness if first else None,
        calibration=calibration,
    )


def check_encoding(content: object) -> bytes:
    """Return a face's encoding: float32, little-endian, at most :data:`MAX_NUMBERS`.

    Raises ``ValueError`` for what cannot be compared: what is no such bytes, has a number that is
    not finite, or nothing but 0, which has no direction. The message shows no number.
    """
    if not isinstance(content, bytes):
        raise ValueError(f"an encoding is not {type(content).__name__}")  # noqa: TRY004, as others
    if not content or len(content) % 4 or len(content) > 4 * MAX_NUMBERS:
        raise ValueError(f"{len(content)} bytes are no encoding")
    numbers = struct.unpack(f"<{len(content) // 4}f", content)
    if not all(map(math.isfinite, numbers)) or not any(numbers):
        raise ValueError("an encoding with numbers that are not finite, or with nothing but 0")
    return content
