"""The keys of small versions of pictures, and of the faces in them.

``thumbnails/<images or people>/<id>-<longest side>``, and for a face
``thumbnails/faces/<image id>-<left>_<top>_<right>_<bottom>-<side>`` with the numbers of its box.
"""

import re
from dataclasses import astuple
from typing import Final, NamedTuple

from services.common.faces import Box

_PREFIX: Final = "thumbnails/"

OF_IMAGES: Final = f"{_PREFIX}images/"
"""The prefix of those whose id is an image's."""

OF_KNOWN: Final = f"{_PREFIX}people/"
"""The prefix of those whose id is a known picture's."""

OF_FACES: Final = f"{_PREFIX}faces/"
"""The prefix of those that show a face of an image."""

_NAME: Final = re.compile(r"[a-z/]+/([0-9]{1,18})-[0-9]+")

_NUMBER: Final = "(-?[0-9]{1,10})"
_FACE: Final = re.compile(f"{OF_FACES}([0-9]{{1,18}})-{'_'.join([_NUMBER] * 4)}-[0-9]+")


class FacePlace(NamedTuple):
    """Where a face is, and in which image."""

    image_id: int
    box: Box


def thumbnail_key(prefix: str, picture_id: int, side: int) -> str:
    """Return the key of a version whose longest side has so many pixels."""
    return f"{prefix}{picture_id}-{side}"


def picture_of(key: str) -> int | None:
    """Return the picture's id that a key is made of; None when it is no such key."""
    found = _NAME.fullmatch(key) or _FACE.fullmatch(key)
    return int(found[1]) if found else None


def face_thumbnail_key(place: FacePlace, side: int) -> str:
    """Return the key of a version with so many pixels a side of the face at a place."""
    return f"{OF_FACES}{place.image_id}-{'_'.join(map(str, astuple(place.box)))}-{side}"


def place_of(key: str) -> FacePlace | None:
    """Return the place that a key is made of; None when it is no such key."""
    found = _FACE.fullmatch(key)
    if found is None:
        return None
    image_id, *sides = map(int, found.groups())
    return FacePlace(image_id, Box(*sides))
