"""What all kept objects have in common: what they are, whose they are, and a checksum.

With whole numbers and floats little-endian:

====  ====================================
4     what it is
2     version of its layout
2     length *e* of the engine's name
*e*   the engine's name, UTF-8
...   its content
32    SHA-256 of all bytes before
====  ====================================
"""

import hashlib
import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.face_recog.domain.errors import DamagedError

FLOAT: Final = np.dtype("<f4")

_HEAD: Final = struct.Struct("<4sHH")
_HASH_BYTES: Final = 32


def seal(kind: bytes, version: int, engine: str, *content: bytes) -> bytes:
    """Return the bytes to keep."""
    name = engine.encode()
    sealed = b"".join([_HEAD.pack(kind, version, len(name)), name, *content])
    return sealed + hashlib.sha256(sealed).digest()


class SealedReader:
    """Takes what was sealed from the front; raises :class:`DamagedError` where it is not there."""

    def __init__(self, sealed: bytes, kind: bytes, version: int) -> None:
        self._body = memoryview(sealed)[:-_HASH_BYTES]
        self._at = 0
        if hashlib.sha256(self._body).digest() != sealed[-_HASH_BYTES:]:
            raise DamagedError("its checksum is wrong")
        *its, length = self.take(_HEAD)
        if its != [kind, version]:
            raise DamagedError("it has another layout, or another version of it")
        self.engine = self.text(length)

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        """Return numbers and bytes in this layout."""
        return layout.unpack(self._bytes(layout.size))

    def text(self, length: int) -> str:
        """Return a text of so many bytes."""
        try:
            return bytes(self._bytes(length)).decode()
        except UnicodeDecodeError as error:
            raise DamagedError(f"it has no text where one is to be: {error}") from None

    def floats(self, rows: int, columns: int) -> NDArray[np.float32]:
        """Return finite numbers, of the shape (rows, columns)."""
        numbers = np.frombuffer(self._bytes(rows * columns * FLOAT.itemsize), FLOAT)
        if not np.isfinite(numbers).all():
            raise DamagedError("it holds what is no number")
        # A copy, so that the file's bytes need not stay in memory beside it.
        return numbers.astype(np.float32).reshape(rows, columns)

    def end(self) -> None:
        """Check that nothing is left."""
        if self._at != len(self._body):
            raise DamagedError(f"it has {len(self._body) - self._at} bytes too many")

    def _bytes(self, length: int) -> memoryview:
        found = self._body[self._at : self._at + length]
        if len(found) != length:
            raise DamagedError("it ends too early")
        self._at += length
        return found
