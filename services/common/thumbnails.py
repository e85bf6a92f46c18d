"""The keys of small versions of pictures: ``thumbnails/<images or people>/<id>-<longest side>``."""

import re
from typing import Final

_PREFIX: Final = "thumbnails/"

OF_IMAGES: Final = f"{_PREFIX}images/"
"""The prefix of those whose id is an image's."""

OF_KNOWN: Final = f"{_PREFIX}people/"
"""The prefix of those whose id is a known picture's."""

_NAME: Final = re.compile(r"[a-z/]+/([0-9]{1,18})-[0-9]+")


def thumbnail_key(prefix: str, picture_id: int, side: int) -> str:
    """Return the key of a version whose longest side has so many pixels."""
    return f"{prefix}{picture_id}-{side}"


def picture_of(key: str) -> int | None:
    """Return the id that a key is made of; None when it is no such key."""
    found = _NAME.fullmatch(key)
    return int(found[1]) if found else None
