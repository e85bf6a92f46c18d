"""WebP files."""

import struct
from collections.abc import Iterator
from typing import Final

from services.common.picture_files.file import (
    MAX_PROFILE,
    PictureError,
    PictureFile,
    cut_off,
    orientation,
)

_ALPHA: Final = 0x10
_ANIMATION: Final = 0x02


def read_webp(content: bytes) -> PictureFile:
    """Keep the picture, or of a moving one the first."""
    chunks: dict[bytes, bytes] = {}  # the first of each kind: of an animation its first picture
    for kind, body, size in webp_chunks(content):
        if len(body) == size:
            chunks.setdefault(kind, body)
        elif not chunks.keys() & {b"VP8 ", b"VP8L", b"ANMF"}:
            raise cut_off(1 - len(body) / size)
    still = next((kind for kind in (b"VP8 ", b"VP8L") if kind in chunks), b"ANMF")
    if still not in chunks:
        raise PictureError("picture is damaged: it has no pixels")
    kept = [(still, chunks[still])]
    canvas = chunks.get(b"VP8X", b"")
    if still == b"ANMF" or b"ALPH" in chunks:
        flags = _ANIMATION | _ALPHA if still == b"ANMF" else _ALPHA
        width = int.from_bytes(canvas[4:7], "little") + 1
        height = int.from_bytes(canvas[7:10], "little") + 1
        before = (b"ANIM", bytes(6)) if still == b"ANMF" else (b"ALPH", chunks[b"ALPH"])
        kept = [(b"VP8X", bytes([flags, 0, 0, 0]) + canvas[4:10]), before, *kept]
    elif still == b"VP8L":
        [bits] = struct.unpack_from("<I", chunks[still], 1)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", chunks[still], 6))
    if 0 in {width, height}:
        raise PictureError("picture is damaged: it has no pixels")
    exif = chunks.get(b"EXIF", b"").removeprefix(b"Exif\0\0")
    return PictureFile(
        "WEBP",
        width,
        height,
        _write_webp(kept),
        orientation(exif),
        chunks.get(b"ICCP", b"")[:MAX_PROFILE],
    )


def webp_chunks(content: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield kind, body and how many bytes it should have; the last body may be cut."""
    position = 12
    while position + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, position)
        yield kind, content[position + 8 : position + 8 + size], size
        position += 8 + size + size % 2


def _write_webp(chunks: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(
        kind + len(content).to_bytes(4, "little") + content + bytes(len(content) % 2)
        for kind, content in chunks
    )
    return b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WEBP" + body
