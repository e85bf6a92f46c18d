"""People who were said to be one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from services.common.picture_formats import format_of
from services.receiver.domain.objects import digest, unique_name


@dataclass(frozen=True, slots=True)
class Merge:
    """Somebody of that name was said to be this person, in ms since the epoch."""

    id: int
    name: str
    created_at: int


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


def name_of_copy(folder: str, image_name: str, content: bytes) -> str:
    """Return a name in a folder, that was never used, for a copy of a known picture."""
    found = format_of(content)
    extension = f".{found.extension}" if found else PurePosixPath(image_name).suffix
    return f"{folder}/{unique_name(digest(content))}{extension}"
