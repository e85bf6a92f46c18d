"""Picture files: what of them makes the pixels, in which colours, and which way up they are.

A picture file carries notes beside its pixels: comments, thumbnails, positions. Damaged or huge
ones must not keep a picture from being read, as they keep no browser from showing it; so only what
decodes to pixels is handed on, and of notes no more is unpacked than which way up the picture is.
"""

import re
import struct
from collections.abc import Callable, Mapping
from typing import Final

from services.common.picture_files.file import (
    MAX_HUNGRY_PIXELS,
    MAX_JPEG_PIXELS,
    MAX_PIXELS,
    PictureError,
    PictureFile,
    check_size,
    without_pixels,
)
from services.common.picture_files.heif import read_heif
from services.common.picture_files.jpeg import read_jpeg
from services.common.picture_files.plain import read_bmp, read_gif
from services.common.picture_files.png import read_png
from services.common.picture_files.tiff import read_tiff
from services.common.picture_files.webp import read_webp
from services.common.picture_formats import TITLES, format_of

_READERS: Final[Mapping[str, Callable[[bytes], PictureFile]]] = {
    "JPEG": read_jpeg,
    "PNG": read_png,
    "WEBP": read_webp,
    "AVIF": read_heif,
    "HEIF": read_heif,
    "GIF": read_gif,
    "BMP": read_bmp,
    "TIFF": read_tiff,
}

_LIMITS: Final = {
    "JPEG": MAX_JPEG_PIXELS,
    "WEBP": MAX_HUNGRY_PIXELS,
    "AVIF": MAX_HUNGRY_PIXELS,
}
"""Of pixels; ``MAX_PIXELS`` in other formats."""

_ADVICE: Final = f"send {TITLES}"

_OTHERS: Final = (
    (rb"II\+\0|MM\0\+", "BigTIFF"),
    (rb".{4}ftypcrx ", "a camera's raw format"),
    (rb".{4}ftyp", "a video"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"\0\0[\x01\x02]\0", "an icon"),
    (rb"8BPS", "a Photoshop file"),
    (rb"%PDF", "PDF"),
    (rb"(?i:(\xef\xbb\xbf)?\s*<(svg|\?xml))", "SVG"),
    (rb"(?i:(\xef\xbb\xbf)?\s*<(!doctype )?html)", "a web page"),
    (rb"PK\x03\x04", "a ZIP archive"),
)


def read_file(content: bytes) -> PictureFile:
    """Read the headers only. Raises :class:`PictureError`."""
    found = format_of(content)
    if found:
        try:
            file = _READERS[found.kind](content)
        except (struct.error, IndexError):
            raise without_pixels() from None
        check_size(file.width, file.height, _LIMITS.get(file.kind, MAX_PIXELS))
        return file
    if not content:
        raise PictureError("the file is empty")
    for pattern, name in _OTHERS:
        if re.match(pattern, content[:100], re.DOTALL):
            raise PictureError(f"this is {name}, which is not read; {_ADVICE}")
    raise PictureError(f"this is no picture; {_ADVICE}")
