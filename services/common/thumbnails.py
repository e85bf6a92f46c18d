"""Small versions of pictures, and their keys."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from services.common.faces import Box
from services.common.stored_pictures import Removal
from services.common.thumbnail_keys import (
    OF_IMAGES,
    OF_KNOWN,
    FacePlace,
    face_thumbnail_key,
    thumbnail_key,
)

THUMBNAIL_SIDE: Final = 640
"""Longest side in pixels: a card of the page on a screen of double density."""

PREVIEW_SIDE: Final = 1600
"""Longest side in pixels of the picture on its own page."""

FACE_SIDE: Final = 256
"""Side in pixels of a face among others, on a screen of double density."""


class Thumbnail(NamedTuple):
    """A small version of a picture: its key, and its longest side in pixels.

    With a ``box`` it shows the square around that alone. The key is the picture's own for good, and
    the box's, whatever is stored there, so a deletion knows it.
    """

    key: str
    side: int
    box: Box | None = None

    @property
    def removal(self) -> Removal:
        """What removes it, whichever picture it was made of."""
        return Removal(self.key, None)


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
