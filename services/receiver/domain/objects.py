"""What lies in the object store, and under which names."""

import hashlib
import secrets
from typing import NamedTuple

from services.common.faces import Box
from services.common.stored_pictures import StoredPicture


class StoredFace(NamedTuple):
    """Where a face is, and in which picture."""

    picture: StoredPicture
    box: Box


def unique_name(content_digest: str) -> str:
    """Return a name that is never given twice, so what happens late to one harms no other."""
    return f"{content_digest}.{secrets.token_hex(8)}"


def digest(content: bytes) -> str:
    """Return the SHA-256 of the content in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
