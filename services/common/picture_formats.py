"""Which picture files are taken: their formats, told by first bytes and never by name, and size."""

import re
from dataclasses import dataclass
from typing import Final

MAX_PICTURE_BYTES: Final = 20 * 1024 * 1024
"""The largest picture file that is taken; the gRPC message limit is derived from it."""


@dataclass(frozen=True)
class Format:
    """A format: what Pillow calls it, what people and HTTP call it, and how its files begin."""

    kind: str
    title: str
    media_type: str
    extension: str
    magic: bytes


_HEAD: Final = 128

FORMATS: Final = (
    Format("JPEG", "JPEG", "image/jpeg", "jpg", rb"\xff\xd8\xff"),
    Format("PNG", "PNG", "image/png", "png", rb"\x89PNG\r\n\x1a\n"),
    Format("WEBP", "WebP", "image/webp", "webp", rb"RIFF.{4}WEBP"),
    # One container: the first brand may be a general one, with the codec's among those behind it.
    Format("AVIF", "AVIF", "image/avif", "avif", rb".{4}ftyp(.{4}){0,16}?(avif|avis)"),
    Format(
        "HEIF",
        "HEIC",
        "image/heic",
        "heic",
        rb".{4}ftyp(.{4}){0,16}?(hei[cxms]|hev[cxms]|mif1|msf1)",
    ),
    Format("GIF", "GIF", "image/gif", "gif", rb"GIF8[79]a"),
    Format("BMP", "BMP", "image/bmp", "bmp", rb"BM.{4}\0\0\0\0"),
    Format("TIFF", "TIFF", "image/tiff", "tif", rb"II\*\0|MM\0\*"),
)
"""In the order in which they are tried. MPO, which some phones write, is a JPEG with more behind
its end."""

TITLES: Final = f"{', '.join(form.title for form in FORMATS[:-1])} or {FORMATS[-1].title}"

ACCEPTED: Final = ",".join(
    [
        *(form.media_type for form in FORMATS),
        "image/heif",
        # Most browsers do not know of which type these are.
        *(".heic", ".heif", ".avif", ".tif", ".tiff"),
    ]
)
"""What a form's ``accept`` says."""


def format_of(content: bytes) -> Format | None:
    """Return the format of a file, None when it is none of these."""
    head = content[:_HEAD]
    return next((form for form in FORMATS if re.match(form.magic, head, re.DOTALL)), None)


def media_type(content: bytes) -> str:
    """Tell a file's media type from its first bytes."""
    found = format_of(content)
    return found.media_type if found else "application/octet-stream"
