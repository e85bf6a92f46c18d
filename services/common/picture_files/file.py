"""What every format's reader returns and raises, and how large a picture may be."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from services.common.errors import RefusedError

MAX_PIXELS: Final = 64_000_000
"""The most pixels that are decoded; a file's header says how many it has.

A phone's panorama has 16,382 x 3,900 at most. What so many take stands in docs/pictures.md: at
most 800 MB, of WebP's decoder. Tests hold the recogniser's workers, the receiver and the page to
what their pods may take."""

MAX_HUNGRY_PIXELS: Final = 50_000_000
"""The same of WebP and AVIF: their decoders keep what they decode two or three times."""

MAX_JPEG_PIXELS: Final = 200_000_000
"""The same of a JPEG that comes in one scan, as cameras write it: of one with more than
``MAX_PIXELS`` only every second pixel of a side is decoded, and the rest is never in memory. The
largest photographs of phones have so many. Of one in several scans, as progressive ones are,
decoders keep everything."""

MAX_PROFILE: Final = 4 * 1024**2
"""Bytes of a colour profile; those of printers have up to 2 MiB. A larger one is ignored."""

MISSING: Final = 0.1
"""The largest share of a picture that may be missing at its end, in a file that was cut off.

Browsers show whatever is there. A face that is not there would be missed without a word, so a
file that lost more is refused, as an upload that broke off."""


class PictureError(RefusedError):
    """The content is not taken; the message tells people why."""

    def __init__(self, reason: str, *, too_large: bool = False) -> None:
        super().__init__(reason)
        self.too_large = too_large


@dataclass(frozen=True)
class PictureFile:
    """A picture file without its notes.

    ``kind`` is what Pillow calls the format, ``width`` and ``height`` are those of the pixels as
    they are decoded, ``content`` decodes to them, ``orientation`` is how those are to be turned, 1
    to 8 as EXIF has it, ``profile`` is the embedded colour profile or empty, ``is_cut`` tells that
    the end of a JPEG is missing, and ``missing`` which share of another file is, 0 to 1.
    """

    kind: str
    width: int
    height: int
    content: bytes
    orientation: int = 1
    profile: bytes = b""
    is_cut: bool = False
    missing: float = 0.0


def check_size(width: int, height: int, limit: int = MAX_PIXELS, kind: str = "picture") -> None:
    """Raise :class:`PictureError` for a picture, or a part of one, that is larger than it may."""
    if width * height > limit:
        raise PictureError(
            f"{kind} has {width} x {height} pixels, the limit is {limit:,} in all",
            too_large=True,
        )


def without_pixels() -> PictureError:
    """Return the error of a file that ends before its pixels begin."""
    return PictureError("picture is cut off before its pixels begin; send the whole file")


def cut_off(share: float) -> PictureError:
    """Return the error of a file whose last share, 0 to 1, is missing."""
    return PictureError(
        f"picture is cut off: its last {max(share, 0.01):.0%} are missing; send the whole file"
    )


def share_missing(size: int, pieces: Sequence[tuple[int, int]]) -> float:
    """Return which share of pieces, each a start and a length, lies behind a file's end."""
    lost = sum(length - max(0, min(length, size - start)) for start, length in pieces)
    return lost / max(1, sum(length for _, length in pieces))


def orientation(exif: bytes) -> int:
    """Return the EXIF orientation, 1 to 8, whatever type of number it is; 1 when there is none.

    ``exif`` is a TIFF structure.
    """
    try:
        order = byte_order(exif)
        for tag, kind, _, start in entries(exif, order):
            if tag == _ORIENTATION:
                if kind == _ASCII:
                    value = int(exif[start : start + 1])
                else:
                    [value] = struct.unpack_from(order + NUMBERS[kind], exif, start)
                return value if 1 <= value <= 8 else 1  # noqa: PLR2004
    except (KeyError, ValueError, struct.error):
        pass
    return 1


def byte_order(tiff: bytes) -> str:
    """Return the byte order of a TIFF structure as ``struct`` names it; ``KeyError``: of none."""
    return {b"II*\0": "<", b"MM\0*": ">"}[tiff[:4]]


def entries(tiff: bytes, order: str) -> Iterator[tuple[int, int, int, int]]:
    """Yield tag, type, count and where the value stands, of a TIFF structure's first directory.

    A value of more than four bytes is elsewhere: what stands there is where. ``struct.error`` is
    raised where the structure ends too early.
    """
    [offset] = struct.unpack_from(f"{order}I", tiff, 4)
    [number] = struct.unpack_from(f"{order}H", tiff, offset)
    for start in range(offset + 2, offset + 2 + 12 * number, 12):
        tag, kind, count = struct.unpack_from(f"{order}HHI", tiff, start)
        yield tag, kind, count, start + 8


_ORIENTATION: Final = 0x0112
_ASCII: Final = 2
NUMBERS: Final = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i"}
"""By their type in a TIFF structure, how ``struct`` names numbers."""
