"""JPEG, PNG and WebP files: what of them makes the pixels, and which way up they are.

A picture file carries notes beside its pixels: comments, colour profiles, thumbnails, positions.
Damaged or huge ones must not keep a picture from being read, as they keep no browser from showing
it; so only what decodes to pixels is handed on, and notes are never unpacked.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MISSING: Final = 0.1
"""The largest share of a picture that may be missing at its end, in a file that was cut off.

Browsers show whatever is there. A face that is not there would be missed without a word, so a
file that lost more is refused, as an upload that broke off."""

_ADVICE: Final = "send JPEG, PNG or WebP"

_OTHERS: Final = (
    (rb"GIF8[79]a", "GIF"),
    (rb"BM.{4}\0\0\0\0", "BMP"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF or a camera's raw format"),
    (rb".{4}ftyp(hei|hev|mif1|msf1)", "HEIC"),
    (rb".{4}ftypavi[fs]", "AVIF"),
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


class PictureError(Exception):
    """The content is not taken; the message tells people why."""

    def __init__(self, reason: str, *, too_large: bool = False) -> None:
        super().__init__(reason)
        self.too_large = too_large


@dataclass(frozen=True)
class PictureFile:
    """A picture file without its notes.

    ``kind`` is what Pillow calls the format, ``width`` and ``height`` are those of the stored
    pixels, ``content`` decodes to them, ``exif`` is a TIFF structure or empty, and ``is_cut`` tells
    that the end of a JPEG is missing.
    """

    kind: str
    width: int
    height: int
    content: bytes
    exif: bytes = b""
    is_cut: bool = False


def read_file(content: bytes) -> PictureFile:
    """Read the headers only. Raises :class:`PictureError`."""
    try:
        if content.startswith(b"\xff\xd8\xff"):
            return _read_jpeg(content)
        if content.startswith(_PNG):
            return _read_png(content)
        if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
            return _read_webp(content)
    except (struct.error, IndexError):
        raise _without_pixels() from None
    if not content:
        raise PictureError("the file is empty")
    for pattern, name in _OTHERS:
        if re.match(pattern, content[:100], re.DOTALL):
            raise PictureError(f"this is {name}, which is not read; {_ADVICE}")
    raise PictureError(f"this is no picture; {_ADVICE}")


def _without_pixels() -> PictureError:
    return PictureError("picture is cut off before its pixels begin; send the whole file")


def cut_off(share: float) -> PictureError:
    """Return the error of a file whose last share, 0 to 1, is missing."""
    return PictureError(
        f"picture is cut off: its last {max(share, 0.01):.0%} are missing; send the whole file"
    )


def orientation(exif: bytes) -> int:
    """Return the EXIF orientation, 1 to 8, whatever type of number it is; 1 when there is none."""
    try:
        order = {b"II*\0": "<", b"MM\0*": ">"}[exif[:4]]
        [offset] = struct.unpack_from(f"{order}I", exif, 4)
        [count] = struct.unpack_from(f"{order}H", exif, offset)
        for start in range(offset + 2, offset + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, start)
            if tag == _ORIENTATION:
                if kind == _ASCII:
                    value = int(exif[start + 8 : start + 9])
                else:
                    [value] = struct.unpack_from(order + _NUMBERS[kind], exif, start + 8)
                return value if 1 <= value <= 8 else 1  # noqa: PLR2004
    except (KeyError, ValueError, struct.error):
        pass
    return 1


_ORIENTATION: Final = 0x0112
_ASCII: Final = 2
_NUMBERS: Final = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i"}


# JPEG

_TABLES: Final = frozenset({0xC4, 0xCC, 0xDB, 0xDD})
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - _TABLES - {0xC8}
_READABLE_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_BARE: Final = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
_SCAN: Final = 0xDA
_APP0: Final = 0xE0
_APP1: Final = 0xE1
_ADOBE: Final = 0xEE
_JFIF: Final = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
_END: Final = b"\xff\xd9"
_JUNK: Final = bytes(number * 97 % 255 for number in range(1, 2000))


def _read_jpeg(content: bytes) -> PictureFile:
    header = [b"\xff\xd8"]
    exif = b""
    size = 0, 0
    start = 0
    for marker, start, body in _jpeg_segments(content):
        segment = content[start : start + 4] + body
        if marker in _FRAMES:
            size = _jpeg_size(marker, body)
            header.append(segment)
        elif marker in _TABLES or (marker == _ADOBE and _is_adobe(body)):
            header.append(segment)
        elif marker == _APP0 and body.startswith(b"JFIF\0"):
            header.append(_JFIF)  # tells the colour space by its mere presence
        elif marker == _APP1 and body.startswith(b"Exif\0") and not exif:
            exif = body[6:]
    if 0 in size:
        raise PictureError("picture is damaged: it has no pixels")
    pixels = content[start:]
    return PictureFile("JPEG", *size, b"".join(header) + pixels, exif, is_cut=_END not in pixels)


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


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int, bytes]]:
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


# PNG

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


def _read_png(content: bytes) -> PictureFile:
    found: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    exif = b""
    for kind, body, is_sound in _png_chunks(content):
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
        raise _without_pixels()
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", header)
    if colour not in _CHANNELS or 0 in {width, height, depth}:
        raise PictureError("picture is damaged: its header makes no sense")
    chunks = [
        (b"IHDR", header),
        *_colours(colour, found),
        (b"IDAT", b"".join(pixels)),
        (b"IEND", b""),
    ]
    return PictureFile("PNG", width, height, _write_png(chunks), exif)


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


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
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
    chunks = [(kind, body) for kind, body, _ in _png_chunks(file.content)]
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


# WebP

_ALPHA: Final = 0x10
_ANIMATION: Final = 0x02


def _read_webp(content: bytes) -> PictureFile:
    chunks: dict[bytes, bytes] = {}  # the first of each kind: of an animation its first picture
    position = 12
    while position + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, position)
        body = content[position + 8 : position + 8 + size]
        if len(body) == size:
            chunks.setdefault(kind, body)
        elif not chunks.keys() & {b"VP8 ", b"VP8L", b"ANMF"}:
            raise cut_off(1 - len(body) / size)
        position += 8 + size + size % 2
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
    return PictureFile("WEBP", width, height, _write_webp(kept), exif)


def _write_webp(chunks: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(
        kind + len(content).to_bytes(4, "little") + content + bytes(len(content) % 2)
        for kind, content in chunks
    )
    return b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WEBP" + body
