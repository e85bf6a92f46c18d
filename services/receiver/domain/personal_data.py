"""What is kept about a person, as they may have it."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from services.common.faces import DecidedBy, MeasuredFace
from services.receiver.domain.faces import FaceKey


@dataclass(frozen=True, slots=True)
class KeptPerson:
    """Who it is; ``id`` is null, as what was never chosen is, without a row."""

    id: int | None
    name: str
    hidden: bool
    created_at: int | None
    face: FaceKey | None


@dataclass(frozen=True, slots=True)
class KeptKnown:
    """A known picture; ``id`` and ``created_at`` are null for a file that was put there by hand."""

    id: int | None
    image_name: str
    created_at: int | None
    face: FaceKey | None = None


@dataclass(frozen=True, slots=True)
class KeptFace(MeasuredFace):
    """A face of theirs: where, how sure it is, and by which engines there is an encoding of it.

    ``distance`` and ``likeness`` are null for one that a hand has named.
    """

    index: int
    drawn: bool
    decided_by: DecidedBy
    distance: float | None
    likeness: float | None
    encodings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KeptPicture:
    """A picture with faces of theirs."""

    id: int
    path: str
    name: str
    created_at: int
    processed_at: int | None
    width: int | None
    height: int | None
    faces: tuple[KeptFace, ...]


@dataclass(frozen=True, slots=True)
class KeptDenial:
    """A face of which a person has said that it is not theirs."""

    image_id: int
    face_index: int
    created_at: int


@dataclass(frozen=True)
class Account:
    """What is kept about a person; each list is to be read once, in this order."""

    person: KeptPerson
    lists: Mapping[str, AsyncIterator[object]]
