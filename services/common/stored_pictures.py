"""Pictures in the object store as their rows tell of them, and what removes an object."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from services.common.object_keys import PICTURES


class Removal(NamedTuple):
    """An object that is to go: its whole key, and its tag if only that one is to go."""

    key: str
    tag: str | None


class StoredPicture(NamedTuple):
    """Where an image's picture is, below ``pictures/``, and whether only uploads write there.

    Of another path ``tag`` is that of the picture that the result is about, None when not known.
    """

    path: str
    uploaded: bool
    tag: str | None


async def removal_of(
    picture: StoredPicture, tag_of: Callable[[str], Awaitable[str | None]]
) -> Removal | None:
    """Return what removes an image's picture; None when it is gone already.

    Of a path that somebody else wrote, that is the object that the result is about, or the one
    that is there now, of which ``tag_of`` tells the tag: a later one stays.
    """
    key = PICTURES + picture.path
    tag = picture.tag
    if not picture.uploaded and tag is None:
        tag = await tag_of(key)
    return Removal(key, tag) if picture.uploaded or tag else None
