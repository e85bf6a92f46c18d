"""What is kept of the known pictures, in parts: the layout of one of them.

A picture's part is the lowest byte of the CRC-32 of its key in UTF-8, so that a change touches one
of 256. A part, ``FSKP`` in version 1, is sealed as :mod:`sealed` says; its content is:

======== =======================================================================
2        how many numbers *s* the engine's encodings have
1        the part
4        how many pictures *n* follow
40 *n*   of each picture: 2 bytes length of its key, 2 bytes length of its tag in listings, 32 bytes
         SHA-256 of its content, 4 bytes number of its faces
...      the key and the tag of each, UTF-8, one after another
4 *s* *f* the encodings, as float32, of the *f* pictures that show exactly one face
======== =======================================================================

The pictures are sorted by key, so that replicas that know the same write the same.
"""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from services.face_recog.domain.engines import Engine
from services.face_recog.domain.errors import DamagedError
from services.face_recog.domain.sealed import FLOAT, SealedReader, seal

PARTS: Final = 256

_KIND: Final = b"FSKP"
_VERSION: Final = 1
_COUNTS: Final = struct.Struct("<HBI")
_PICTURE: Final = struct.Struct("<HH32sI")


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
        rows: list[bytes] = []
        texts: list[bytes] = []
        encodings: list[bytes] = []
        for key, picture in sorted(self.known.items()):
            assert picture.faces  # noqa: S101, what has none is not kept
            text = (key.encode(), picture.tag.encode())
            texts += text
            rows.append(_PICTURE.pack(*map(len, text), picture.digest, picture.faces.count))
            if picture.faces.encoding is not None:
                encodings.append(picture.faces.encoding.astype(FLOAT).tobytes())
        counts = _COUNTS.pack(self.engine.size, self.number, len(self.known))
        return seal(_KIND, _VERSION, self.engine.name, counts, *rows, *texts, *encodings)

    @classmethod
    def unpack(cls, content: bytes) -> Self:
        """Return what was packed, or raise :class:`DamagedError`."""
        body = SealedReader(content, _KIND, _VERSION)
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
        return cls(Engine(body.engine, size), number, known)
