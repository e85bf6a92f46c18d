"""PNG files."""

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from services.common.picture_files.file import (
    MAX_PROFILE,
    MISSING,
    PictureError,
    PictureFile,
    cut_off,
    orientation,
    without_pixels,
)

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PALETTE: Final = 3
_TRANSPARENCY_BYTES: Final = {0: 2, 2: 6}
_ADAM7: Final = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_PIECE: Final = 4096
_RAW_EXIF: Final = b"Raw profile type exif\0"
_MAX_RAW_EXIF: Final = 2**18


def read_png(content: bytes) -> PictureFile:
    """Keep what decodes to pixels, with checksums that are right."""
    found: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    exif = b""
    for kind, body, is_sound in png_chunks(content):
        if kind == b"IDAT":
            pixels.append(body)
        elif is_sound:
            found.setdefault(kind, body)
            if kind in {b"tEXt", b"zTXt"} and body.startswith(_RAW_EXIF):
                exif = exif or _raw_profile(kind, body)
        elif kind in {b"IHDR", b"PLTE"}:
            raise PictureError("picture is damaged: its header has a wrong checksum")
    exif = found.get(b"eXIf", exif).removeprefix(b"Exif\0\0")
    header = found.get(b"IHDR", b"")
    if not pixels:
        raise without_pixels()
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", header)
    if colour not in _CHANNELS or 0 in {width, height, depth}:
        raise PictureError("picture is damaged: its header makes no sense")
    chunks = [
        (b"IHDR", header),
        *_colours(colour, found),
        (b"IDAT", b"".join(pixels)),
        (b"IEND", b""),
    ]
    return PictureFile(
        "PNG",
        width,
        height,
        _write_png(chunks),
        orientation(exif),
        _profile(found.get(b"iCCP", b"")),
    )


def _colours(colour: int, found: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Return what tells the colours of the pixels: palette and transparency."""
    transparency = found.get(b"tRNS", b"")
    if colour == _PALETTE:
        if b"PLTE" not in found:
            raise PictureError("picture is damaged: its palette is missing")
        return [(b"PLTE", found[b"PLTE"]), (b"tRNS", transparency[:256])]
    if len(transparency) == _TRANSPARENCY_BYTES.get(colour):
        return [(b"tRNS", transparency)]
    return []


def _raw_profile(kind: bytes, body: bytes) -> bytes:
    """Return the notes that ImageMagick writes as text: name, length and hexadecimal digits."""
    text = body[len(_RAW_EXIF) :]
    try:
        if kind == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], _MAX_RAW_EXIF)
        return bytes.fromhex(b"".join(text[:_MAX_RAW_EXIF].split()[2:]).decode())
    except (zlib.error, ValueError):
        return b""


def _profile(body: bytes) -> bytes:
    """Return a colour profile: behind its name and how it is packed; empty when it is none."""
    try:
        profile = zlib.decompressobj().decompress(body.partition(b"\0")[2][1:], MAX_PROFILE)
    except zlib.error:
        return b""
    return profile if len(profile) < MAX_PROFILE else b""


def png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield kind, body and whether the checksum is right; the last body may be cut."""
    position = len(_PNG)
    while position + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, position)
        end = position + 8 + size
        body = content[position + 8 : end]
        check = zlib.crc32(body, zlib.crc32(kind)).to_bytes(4, "big")
        yield kind, body, check == content[end : end + 4]
        if kind == b"IEND":
            return
        position = end + 4


def _write_png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [_PNG]
    for kind, body in chunks:
        check = zlib.crc32(body, zlib.crc32(kind))
        parts += [len(body).to_bytes(4, "big"), kind, body, check.to_bytes(4, "big")]
    return b"".join(parts)


def mend_png(file: PictureFile) -> bytes:
    """Return a PNG that could not be decoded with its missing or broken end blank.

    Raises :class:`PictureError` when too much of it is.
    """
    chunks = [(kind, body) for kind, body, _ in png_chunks(file.content)]
    wanted = _unpacked_size(chunks[0][1])
    done = 0
    packer = zlib.compressobj(1)
    packed = []
    index = next(index for index, (kind, _) in enumerate(chunks) if kind == b"IDAT")
    for data in _inflate(chunks[index][1]):
        rows = data[: wanted - done]
        done += len(rows)
        packed.append(packer.compress(rows))
        if done == wanted:
            break
    if done < wanted * (1 - MISSING):
        raise cut_off(1 - done / wanted)
    while done < wanted:
        blank = bytes(min(wanted - done, 2**20))
        done += len(blank)
        packed.append(packer.compress(blank))
    chunks[index] = (b"IDAT", b"".join(packed) + packer.flush())
    return _write_png(chunks)


def _inflate(content: bytes) -> Iterator[bytes]:
    """Yield what can be unpacked, up to the first error, in pieces of a few MB at most."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)  # without the checksum at its end
    for start in range(2, len(content), _PIECE):
        piece = content[start : start + _PIECE]
        before = stream.copy()
        try:
            yield stream.decompress(piece)
        except zlib.error:
            for byte in piece:  # an error takes along what came before it
                try:
                    yield before.decompress(bytes([byte]))
                except zlib.error:
                    return
        if stream.eof:
            return


def _unpacked_size(header: bytes) -> int:
    """Return the bytes of all rows, each with its filter's number before it."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    size = 0
    for left, top, across, down in passes:
        columns = -(-(width - left) // across)
        rows = -(-(height - top) // down)
        if columns > 0 and rows > 0:
            size += rows * (1 + (columns * depth * _CHANNELS[colour] + 7) // 8)
    return size
