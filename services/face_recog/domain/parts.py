"""What is kept of the known pictures, in parts: the layout of one of them.

A picture's part is the lowest byte of the CRC-32 of its key in UTF-8, so that a change touches one
of 256. The bytes of a part, with whole numbers and floats little-endian:

======== =======================================================================
4        ``FSKP``
2        version of this layout, 1
2        length *e* of the engine's name
*e*      the engine's name, UTF-8
2        how many numbers *s* the engine's encodings have
1        the part
4        how many pictures *n* follow
40 *n*   of each picture: 2 bytes length of its key, 2 bytes length of its tag in listings, 32 bytes
         SHA-256 of its content, 4 bytes number of its faces
...      the key and the tag of each, UTF-8, one after another
4 *s* *f* the encodings, as float32, of the *f* pictures that show exactly one face
32       SHA-256 of all bytes before
======== =======================================================================

The pictures are sorted by key, so that replicas that know the same write the same.
"""

import hashlib
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from services.face_recog.domain.engines import Engine
from services.face_recog.domain.errors import DamagedError

PARTS: Final = 256

_MAGIC: Final = b"FSKP"
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<4sHH")
_COUNTS: Final = struct.Struct("<HBI")
_PICTURE: Final = struct.Struct("<HH32sI")
HASH_BYTES: Final = 32
"""Of the checksum, a SHA-256."""

_FLOAT: Final = np.dtype("<f4")


def seal(content: bytes) -> bytes:
    """Return content with its checksum behind it."""
    return content + hashlib.sha256(content).digest()


def unseal(content: bytes) -> memoryview:
    """Return what was sealed, or raise :class:`DamagedError`."""
    body = memoryview(content)[:-HASH_BYTES]
    if hashlib.sha256(body).digest() != content[-HASH_BYTES:]:
        raise DamagedError("its checksum is wrong")
    return body


@dataclass(frozen=True, slots=True)
class PictureFaces:
    """How many faces a picture shows; the encoding, shape (size of the engine,), of the only."""

    count: int
    encoding: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class GalleryPicture:
    """What a known picture came to.

    ``tag`` is that of its listing, ``digest`` the SHA-256 of its content, empty when it could not
    be read. Without ``faces`` it is skipped for what may be otherwise the next time.
    """

    tag: str
    digest: bytes = b""
    faces: PictureFaces | None = field(default=None, compare=False)

    @property
    def encoding(self) -> NDArray[np.float32] | None:
        """That of the only face; None when the picture is skipped."""
        return self.faces.encoding if self.faces else None


def part_of(key: str) -> int:
    """Return the number of the part in which a picture is kept."""
    return zlib.crc32(key.encode()) % PARTS


@dataclass(frozen=True)
class KeptPart:
    """Pictures by key, each with its faces as the engine found them."""

    engine: Engine
    number: int
    known: Mapping[str, GalleryPicture]

    def pack(self) -> bytes:
        """Return the bytes to keep."""
        name = self.engine.name.encode()
        rows: list[bytes] = []
        texts: list[bytes] = []
        encodings: list[bytes] = []
        for key, picture in sorted(self.known.items()):
            assert picture.faces  # noqa: S101, what has none is not kept
            text = (key.encode(), picture.tag.encode())
            texts += text
            rows.append(_PICTURE.pack(*map(len, text), picture.digest, picture.faces.count))
            if picture.faces.encoding is not None:
                encodings.append(picture.faces.encoding.astype(_FLOAT).tobytes())
        content = b"".join(
            [
                _HEAD.pack(_MAGIC, _VERSION, len(name)),
                name,
                _COUNTS.pack(self.engine.size, self.number, len(self.known)),
                *rows,
                *texts,
                *encodings,
            ]
        )
        return seal(content)

    @classmethod
    def unpack(cls, content: bytes) -> Self:
        """Return what was packed, or raise :class:`DamagedError`."""
        body = unseal(content)
        try:
            return cls._read(_Reader(body))
        except (struct.error, UnicodeDecodeError) as error:
            raise DamagedError(f"it is no part: {error}") from None

    @classmethod
    def _read(cls, body: "_Reader") -> Self:
        magic, version, length = body.take(_HEAD)
        if (magic, version) != (_MAGIC, _VERSION):
            raise DamagedError("it has another layout, or another version of it")
        name = body.text(length)
        size, number, count = body.take(_COUNTS)
        pictures = [body.take(_PICTURE) for _ in range(count)]
        texts = [(body.text(key), body.text(tag)) for key, tag, _, _ in pictures]
        single = sum(faces == 1 for *_, faces in pictures)
        encodings = iter(body.floats(single, size))
        body.end()
        known = {
            key: GalleryPicture(
                tag, digest, PictureFaces(faces, next(encodings) if faces == 1 else None)
            )
            for (key, tag), (_, _, digest, faces) in zip(texts, pictures, strict=True)
        }
        if len(known) != count or any(part_of(key) != number for key in known):
            raise DamagedError("it holds a picture twice, or one of another part")
        return cls(Engine(name, size), number, known)


class _Reader:
    """Takes bytes from the front; raises ``struct.error`` when they end too early or too late."""

    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._at = 0

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        values = layout.unpack_from(self._body, self._at)
        self._at += layout.size
        return values

    def text(self, length: int) -> str:
        return bytes(self._bytes(length)).decode()

    def floats(self, rows: int, columns: int) -> NDArray[np.float32]:
        numbers = np.frombuffer(self._bytes(rows * columns * _FLOAT.itemsize), _FLOAT)
        if not np.isfinite(numbers).all():
            raise DamagedError("it holds what is no number")
        # A copy, so that the file's bytes need not stay in memory beside it.
        return numbers.astype(np.float32).reshape(rows, columns)

    def end(self) -> None:
        if self._at != len(self._body):
            raise struct.error(f"{len(self._body) - self._at} bytes too many")

    def _bytes(self, length: int) -> memoryview:
        found = self._body[self._at : self._at + length]
        if len(found) != length:
            raise struct.error("it ends too early")
        self._at += length
        return found
