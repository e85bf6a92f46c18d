"""What lies in the object store, and under which names."""

import hashlib
import secrets
from typing import NamedTuple

from services.common.faces import Box


class StoredPicture(NamedTuple):
    """Where an image's picture is, below ``pictures/``, and whether only uploads write there.

    Of another path ``tag`` is that of the picture that the result is about, None when not known.
    """

    path: str
    uploaded: bool
    tag: str | None


class StoredFace(NamedTuple):
    """Where a face is, and in which picture."""

    picture: StoredPicture
    box: Box


class Removal(NamedTuple):
    """An object that is to go: its whole key, and its tag if only that one is to go."""

    key: str
    tag: str | None


def unique_name(content_digest: str) -> str:
    """Return a name that is never given twice, so what happens late to one harms no other."""
    return f"{content_digest}.{secrets.token_hex(8)}"


def digest(content: bytes) -> str:
    """Return the SHA-256 of the content in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
