"""Groups of unknown faces, and the questions that they raise."""

from dataclasses import dataclass
from enum import StrEnum

from services.receiver.domain.cursors import Pair
from services.receiver.domain.faces import FaceKey


@dataclass(frozen=True, slots=True)
class Group:
    """Unknown faces that are one person's, as far as their encodings tell: some of them.

    ``last`` is the place of the last one, None when there are no more, and in lists of groups.
    """

    id: int
    size: int
    faces: tuple[FaceKey, ...]
    last: Pair | None = None


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
