"""JPEG files, and MPO, which is one with more behind its end."""

import re
import struct
from collections.abc import Iterator
from typing import Final

from services.common.picture_files.file import (
    MAX_PROFILE,
    PictureError,
    PictureFile,
    check_size,
    orientation,
)

_TABLES: Final = frozenset({0xC4, 0xCC, 0xDB, 0xDD})
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - _TABLES - {0xC8}
_READABLE_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_PROGRESSIVE_FRAMES: Final = frozenset({0xC2, 0xCA})
_BARE: Final = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
_SCAN: Final = 0xDA
_APP0: Final = 0xE0
APP1: Final = 0xE1
_APP2: Final = 0xE2
_ADOBE: Final = 0xEE
_JFIF: Final = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
_END: Final = b"\xff\xd9"
_PROFILE: Final = b"ICC_PROFILE\0"
_JUNK: Final = bytes(number * 97 % 255 for number in range(1, 2000))


def read_jpeg(content: bytes) -> PictureFile:
    """Keep what decodes to pixels. Raises as :func:`read_file` does."""
    header = [b"\xff\xd8"]
    exif = b""
    profile: dict[int, bytes] = {}
    size = 0, 0
    start = colours = 0
    in_one_scan = True
    for marker, start, body in jpeg_segments(content):
        segment = content[start : start + 4] + body
        if marker in _FRAMES:
            size = _jpeg_size(marker, body)
            in_one_scan, colours = marker not in _PROGRESSIVE_FRAMES, body[5]
            header.append(segment)
        elif marker in _TABLES or (marker == _ADOBE and _is_adobe(body)):
            header.append(segment)
        elif marker == _APP0 and body.startswith(b"JFIF\0"):
            header.append(_JFIF)  # tells the colour space by its mere presence
        elif marker == APP1 and body.startswith(b"Exif\0") and not exif:
            exif = body[6:]
        elif marker == _APP2 and body.startswith(_PROFILE):
            profile.setdefault(body[12], body[14:])  # in parts, which are numbered
    if 0 in size:
        raise PictureError("picture is damaged: it has no pixels")
    pixels = content[start:]
    if not in_one_scan or pixels[4] != colours:  # of the first scan's header, how many are in it
        check_size(*size, kind="progressive picture")
    return PictureFile(
        "JPEG",
        *size,
        b"".join(header) + pixels,
        orientation(exif),
        b"".join(part for _, part in sorted(profile.items()))[:MAX_PROFILE],
        is_cut=_END not in pixels,
    )


def _jpeg_size(marker: int, body: bytes) -> tuple[int, int]:
    if marker not in _READABLE_FRAMES:
        raise PictureError(
            "this kind of JPEG (lossless or hierarchical) is not read; save it as usual"
        )
    depth, height, width = struct.unpack_from(">BHH", body)
    if depth != 8:  # noqa: PLR2004
        raise PictureError(f"a JPEG of {depth} bits a colour is not read; save it with 8")
    return width, height


def _is_adobe(body: bytes) -> bool:
    """Tell whether it names the colour space."""
    return body.startswith(b"Adobe") and len(body) >= 12  # noqa: PLR2004


def jpeg_segments(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield marker, start and body of each segment, and last of the first scan's header.

    Bytes between segments are passed over, as by every decoder.
    """
    position = 2
    while True:
        fill = content.find(b"\xff", position)
        found = _NO_FILL.search(content, fill) if fill >= 0 else None
        if found is None:
            raise IndexError
        marker, position = found[0][0], found.end()
        if marker in _BARE:
            continue
        if marker == _END[1]:
            raise PictureError("picture is damaged: it has no pixels")
        [size] = struct.unpack_from(">H", content, position)
        yield marker, position - 2, content[position + 2 : position + size]
        if marker == _SCAN:
            return
        position += max(size, 2)


_NO_FILL: Final = re.compile(rb"[^\xff]")


def end_jpeg(file: PictureFile, *, junk: bool = False) -> bytes:
    """Return a JPEG that was cut off with an end.

    What decoders make of the missing part is one colour. With ``junk`` in its place it is not,
    which tells it from a part of the picture that is of one colour.
    """
    content = file.content
    scan = content.rfind(bytes([0xFF, _SCAN]))
    table = max(content.rfind(bytes([0xFF, marker])) for marker in _TABLES)
    header_end = scan + 2 + int.from_bytes(content[scan + 2 : scan + 4], "big")
    # A header between two scans that is cut, too, would take the end for its own.
    if table > scan:
        content = content[:table]
    elif header_end > len(content):
        content = content[:scan]
    return content.rstrip(b"\xff") + (_JUNK if junk else b"") + _END
