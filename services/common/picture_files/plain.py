"""GIF and BMP files."""

import struct
from typing import Final

from services.common.picture_files.file import (
    MISSING,
    PictureError,
    PictureFile,
    check_size,
    cut_off,
    without_pixels,
)

_TABLE: Final = 0x80
_EXTENSION: Final = 0x21
_CONTROL: Final = 0xF9
_PICTURE: Final = 0x2C
_END: Final = b"\0;"


def read_gif(content: bytes) -> PictureFile:
    """Keep the first picture, with what tells its colours."""
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    position = 13 + _table_size(flags)
    kept = [content[:position]]
    while content[position] == _EXTENSION:
        end = _behind_blocks(content, position + 2)
        if content[position + 1] == _CONTROL:
            kept.append(content[position:end])
        position = end
    if content[position] != _PICTURE:
        raise PictureError("picture is damaged: it has no pixels")
    left, top, across, down, flags = struct.unpack_from("<HHHHB", content, position + 1)
    if 0 in {across, down}:
        raise PictureError("picture is damaged: it has no pixels")
    pixels = position + 11 + _table_size(flags)
    try:
        end = _behind_blocks(content, pixels)
    except IndexError:
        end = len(content)
    if end <= pixels + 1:
        raise without_pixels()
    kept += [content[position:end], _END]
    return PictureFile("GIF", max(width, left + across), max(height, top + down), b"".join(kept))


def _table_size(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & _TABLE else 0


def _behind_blocks(content: bytes, position: int) -> int:
    """Return where a row of blocks, each behind its length, ends; ``IndexError``: nowhere."""
    while content[position]:
        position += 1 + content[position]
    return position + 1


_OLD_HEADER: Final = 12
_UNCOMPRESSED: Final = frozenset({0, 3})
_RUN_LENGTHS: Final = frozenset({1, 2})
_STEP: Final = b"\0\2\xff\xff"
_STOP: Final = b"\0\1"
_MOST_CUT: Final = 65


def read_bmp(content: bytes) -> PictureFile:
    """Read sizes; blank rows take the place of a missing end, as long as they are few."""
    start, header = struct.unpack_from("<II", content, 10)
    if header == _OLD_HEADER:
        width, height, _, depth = struct.unpack_from("<HHHH", content, 18)
        packing = 0
    else:
        width, height, _, depth, packing = struct.unpack_from("<IiHHI", content, 18)
        height = abs(height)
    if 0 in {width, height}:
        raise PictureError("picture is damaged: it has no pixels")
    check_size(width, height)
    if start >= len(content):
        raise without_pixels()
    if packing in _UNCOMPRESSED:
        size = (width * depth + 31) // 32 * 4 * height
    elif packing in _RUN_LENGTHS:
        [size] = struct.unpack_from("<I", content, 34)
    else:
        return PictureFile("BMP", width, height, content)
    lost = start + size - len(content)
    if lost > size * MISSING:
        raise cut_off(lost / size)
    if packing in _UNCOMPRESSED:
        content += bytes(max(lost, 0))
    else:
        # Steps over what is not there leave it blank. They follow twice, from another byte on: a
        # run that was cut takes the first 255 bytes, or one, for its own.
        steps = _STEP * (height // _STEP[-1] + _MOST_CUT)
        content = content[: start + size].removesuffix(_STOP) + steps + b"\0" + steps
    return PictureFile("BMP", width, height, content)
