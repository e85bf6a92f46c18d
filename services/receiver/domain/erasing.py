"""Forgetting people: who is to be forgotten, and how far it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """How far it is with somebody who is being forgotten."""

    NAMES = "names"
    """Faces lose the name, and then the person goes: who is deleted, not forgotten for good."""

    MERGED = "merged"
    """Faces go to whom they were said to be, and then the person goes."""

    FIRST = "first"
    """What is there goes."""

    LEAVING = "leaving"
    """The redeemer removes the known pictures."""

    LAST = "last"
    """What has come since goes, and then the person."""


@dataclass(frozen=True)
class Erasure:
    """Somebody who is being forgotten, ours until the lease ends; as the table has it."""

    person_id: int
    name: str
    folders: Sequence[str]
    pictures: bool
    stage: Stage
    after_image_id: int
    token: str


@dataclass(frozen=True)
class Erased:
    """What of somebody is there to be forgotten: known pictures, faces, and pictures with these.

    The last are 0 when they are to stay.
    """

    known_pictures: int
    faces: int
    pictures: int
