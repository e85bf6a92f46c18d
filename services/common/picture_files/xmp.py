"""The XMP of picture files: notes as XML (ISO 16684), which other readers here pass over."""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from PIL import Image

from services.common.errors import RefusedError
from services.common.picture_files.file import PictureFile, byte_order, entries
from services.common.picture_files.jpeg import APP1, jpeg_segments
from services.common.picture_files.png import png_chunks
from services.common.picture_files.webp import webp_chunks

MAX_XMP: Final = 8 * 1024**2
"""Bytes of XMP that are read. Every brush stroke of Lightroom's is in it, and maps of depth."""

_MAIN: Final = b"http://ns.adobe.com/xap/1.0/\0"
_EXTENSION: Final = b"http://ns.adobe.com/xmp/extension/\0"
_GUID: Final = re.compile(rb"HasExtendedXMP(?:\s*=\s*[\"']|>)\s*([0-9A-Fa-f]{32})")
_PNG_KEYWORD: Final = b"XML:com.adobe.xmp\0"
_TIFF_TAG: Final = 700


class XmpError(RefusedError):
    """A file's XMP cannot be read; the message tells people why."""


def packets(content: bytes, file: PictureFile) -> Iterator[bytes]:
    """Yield the XMP of a picture file: none, one packet, or of a JPEG its main and extended one.

    ``file`` is what :func:`read_file` made of the content. Raises :class:`XmpError`.
    """
    match file.kind:
        case "JPEG":
            found = _of_jpeg(content)
        case "PNG":
            found = _of_png(content)
        case "WEBP":
            found = (body for kind, body, _ in webp_chunks(content) if kind == b"XMP ")
        case "TIFF":
            found = _of_tiff(content)
        case "HEIF" | "AVIF":
            found = _of_heif(file)
        case _:
            found = iter(())
    for packet in found:
        check_size(len(packet))
        yield packet


def stored_orientation(file: PictureFile) -> int:
    """Return the EXIF orientation, 1 to 8, of the pixels that the notes of a file speak of.

    That is the file's, but for HEIC: it is turned by its decoder, while its notes are about the
    pixels from before, as those of other formats are.
    """
    if file.kind != "HEIF":
        return file.orientation
    with Image.open(io.BytesIO(file.content), formats=[file.kind]) as image:
        return int(image.info.get("original_orientation") or 1)


def check_size(size: int) -> None:
    """Raise :class:`XmpError` for more bytes than are read."""
    if size > MAX_XMP:
        raise XmpError(f"the XMP has more than {MAX_XMP // 2**20} MiB")


def _of_jpeg(content: bytes) -> Iterator[bytes]:
    main = b""
    parts: dict[bytes, dict[int, bytes]] = {}
    sizes: dict[bytes, int] = {}
    for marker, _, body in jpeg_segments(content):
        if marker == APP1 and body.startswith(_MAIN):
            main = main or body[len(_MAIN) :]
        elif marker == APP1 and body.startswith(_EXTENSION):
            guid, size, offset = struct.unpack_from(">32sII", body, len(_EXTENSION))
            sizes[guid] = size
            parts.setdefault(guid, {})[offset] = body[len(_EXTENSION) + 40 :]
    if not main:
        return
    yield main
    if named := _GUID.search(main):
        yield _joined(parts.get(named[1], {}), sizes.get(named[1], 0))


def _joined(parts: dict[int, bytes], size: int) -> bytes:
    """Return an extended packet out of its parts by where each begins."""
    starts = sorted(parts)
    ends = accumulate(len(parts[start]) for start in starts)
    if not starts or [0, *ends] != [*starts, size]:
        raise XmpError("a part of the extended XMP is missing")
    return b"".join(parts[start] for start in starts)


def _of_png(content: bytes) -> Iterator[bytes]:
    for kind, body, is_sound in png_chunks(content):
        if kind == b"iTXt" and is_sound and body.startswith(_PNG_KEYWORD):
            is_packed = body[len(_PNG_KEYWORD)]
            _, _, text = body[len(_PNG_KEYWORD) + 2 :].split(b"\0", 2)
            yield zlib.decompressobj().decompress(text, MAX_XMP + 1) if is_packed else text
            return


def _of_tiff(content: bytes) -> Iterator[bytes]:
    order = byte_order(content)
    for tag, _, count, start in entries(content, order):
        if tag == _TIFF_TAG:
            [place] = struct.unpack_from(f"{order}I", content, start)
            yield content[place : place + count]


def _of_heif(file: PictureFile) -> Iterator[bytes]:
    with Image.open(io.BytesIO(file.content), formats=[file.kind]) as image:
        packet = image.info.get("xmp")
    if packet:
        yield packet
