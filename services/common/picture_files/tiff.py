"""TIFF files: the first page."""

import ctypes
import functools
import struct
from typing import Final

from PIL import _imaging

from services.common.picture_files.file import (
    MAX_PROFILE,
    MISSING,
    NUMBERS,
    PictureError,
    PictureFile,
    byte_order,
    check_size,
    cut_off,
    entries,
    orientation,
    share_missing,
)

_SUBFILE: Final = 254
_WIDTH: Final = 256
_HEIGHT: Final = 257
_OFFSETS: Final = 273
_LENGTHS: Final = 279
_TILE_WIDTH: Final = 322
_TILE_HEIGHT: Final = 323
_TILE_OFFSETS: Final = 324
_TILE_LENGTHS: Final = 325
_PROFILE: Final = 34675
_RAW: Final = 50706  # the version of DNG

_PIXELS: Final = frozenset(
    {
        *(_SUBFILE, _WIDTH, _HEIGHT, 258, 259, 262, 266, _OFFSETS, 277, 278, _LENGTHS, 284),
        *(292, 293, 317, 320, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_LENGTHS),
        *(338, 339, 347, 529, 530, 531, 532),
    }
)
"""The tags that decoders need: size, depth, packing, colours, where the pixels stand."""

_MAX_COUNT: Final = 100_000
"""Numbers of one tag: more than the strips or tiles of any picture that fits into a file."""

_INLINE: Final = 4
_SIZES: Final = {**{kind: struct.calcsize(name) for kind, name in NUMBERS.items()}, 2: 1, 5: 8}


class _Directory:
    """The first directory of a file: what is kept of it, its numbers by tag, the colour profile."""

    def __init__(self, content: bytes) -> None:
        self.order = byte_order(content)
        self.kept: list[bytes] = []
        self.numbers: dict[int, tuple[int, ...]] = {}
        self.profile = b""
        self._content = content
        for tag, kind, count, start in entries(content, self.order):
            size = _SIZES.get(kind, 0) * count
            if tag == _PROFILE:
                begin = self._place(start)
                self.profile = content[begin : begin + min(size, MAX_PROFILE)]
            elif tag == _RAW:
                raise _raw()
            elif tag in _PIXELS and size:
                self._keep(tag, kind, count, start)

    def first(self, tag: int) -> int:
        return self.numbers.get(tag, (0,))[0]

    def pieces(self) -> list[tuple[int, int]]:
        """Return where strips and tiles begin and how long they are."""
        return [
            piece
            for starts, lengths in ((_OFFSETS, _LENGTHS), (_TILE_OFFSETS, _TILE_LENGTHS))
            for piece in zip(
                self.numbers.get(starts, ()), self.numbers.get(lengths, ()), strict=False
            )
        ]

    def written_behind(self) -> bytes:
        """Return the file with what is kept as its directory, which has no next one."""
        content, order = self._content, self.order
        padding = bytes(len(content) % 2)
        where = struct.pack(f"{order}I", len(content) + len(padding))
        directory = struct.pack(f"{order}H", len(self.kept)) + b"".join(self.kept) + bytes(4)
        return b"".join((content[:4], where, content[8:], padding, directory))

    def _keep(self, tag: int, kind: int, count: int, start: int) -> None:
        if count > _MAX_COUNT:
            raise PictureError("picture is damaged: its header makes no sense")
        entry = struct.pack(f"{self.order}HHI", tag, kind, count)
        self.kept.append(entry + self._content[start : start + _INLINE])
        if kind in NUMBERS:
            form = f"{self.order}{count}{NUMBERS[kind]}"
            place = self._place(start) if struct.calcsize(form) > _INLINE else start
            self.numbers[tag] = struct.unpack_from(form, self._content, place)

    def _place(self, start: int) -> int:
        [place] = struct.unpack_from(f"{self.order}I", self._content, start)
        return int(place)


def read_tiff(content: bytes) -> PictureFile:
    """Write a directory of its own behind the file, of nothing but what tells the pixels."""
    _silence_decoder()
    directory = _Directory(content)
    if directory.first(_SUBFILE) & 1:
        raise _raw()  # the first page is a small copy of the picture
    width, height = directory.first(_WIDTH), directory.first(_HEIGHT)
    if width < 1 or height < 1:
        raise PictureError("picture is damaged: it has no pixels")
    # Decoders take memory for a whole tile, which may be larger than the picture.
    check_size(directory.first(_TILE_WIDTH), directory.first(_TILE_HEIGHT))
    missing = share_missing(len(content), directory.pieces())
    if missing > MISSING:
        raise cut_off(missing)
    return PictureFile(
        "TIFF",
        width,
        height,
        directory.written_behind(),
        orientation(content),
        directory.profile,
        missing=missing,
    )


@functools.cache
def _silence_decoder() -> None:
    """Keep libtiff from writing to standard error; what is wrong Pillow raises."""
    # Names are looked up in what Pillow is linked with, too.
    libtiff = ctypes.CDLL(_imaging.__file__)
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        handle = libtiff[name]
        handle.restype = ctypes.c_void_p
        handle(None)


def _raw() -> PictureError:
    return PictureError("this is a camera's raw format, which is not read; send a JPEG of it")
