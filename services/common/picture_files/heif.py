"""HEIC and AVIF: both are boxes (ISO/IEC 14496-12) that hold coded pictures (ISO/IEC 23008-12).

Only what bounds the work is read here, before a decoder is given the file: which items there are,
how large each says to be, and where its bytes are. The rest is the decoders' business.
"""

import functools
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import pillow_heif
from PIL import AvifImagePlugin, Image

from services.common.picture_files.file import (
    MAX_HUNGRY_PIXELS,
    MAX_PIXELS,
    MAX_PROFILE,
    MISSING,
    PictureError,
    PictureFile,
    check_size,
    cut_off,
    share_missing,
)
from services.common.picture_formats import format_of

_AV1: Final = b"av01"
_CODED: Final = {"HEIF": b"hvc1", "AVIF": _AV1}
_GRID: Final = b"grid"
_ORIENTATION: Final = 0x0112
_FILL: Final = 63
_MOST: Final = 10_000
"""Boxes in a box, places of items, units of a stream: 64 megapixels have a few hundred."""


@functools.cache
def prepare_decoders() -> None:
    """Let Pillow know of HEIC, and let each decoder run in the thread that asks.

    A thread of its own would take tens of MiB of a worker's address space.
    """
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    pillow_heif.register_heif_opener(
        decode_threads=1, thumbnails=False, depth_images=False, aux_images=False
    )


@dataclass
class _Item:
    kind: bytes = b""
    in_header: bool = False
    extents: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(length for _, length in self.extents)


def read_heif(content: bytes) -> PictureFile:
    """Read what there is and how large it is; decoders turn and mirror it themselves."""
    begins = format_of(content)
    kind = begins.kind if begins else "HEIF"
    boxes = list(_boxes(content, 0, len(content)))
    meta = next((box for box in boxes if box[0] == b"meta"), None)
    lost = max((end for _, _, end in boxes), default=0) - len(content)
    if meta is None:
        if lost > 0 or not any(box[0] == b"moov" for box in boxes):
            raise cut_off(lost / (lost + len(content)))
        raise PictureError("this is a video, which is not read; send a picture")
    content = _without_films(content, kind, boxes)
    found = _Meta(content, MAX_HUNGRY_PIXELS if kind == "AVIF" else MAX_PIXELS)
    found.read(meta[1] + 4, meta[2])
    coded, items = _CODED[kind], found.items.values()
    primary = found.items.get(found.primary, _Item())
    if primary.kind not in {coded, _GRID}:
        raise PictureError(f"this kind of {kind} is not read; save it as JPEG")
    if sum(item.size for item in items) > 2 * len(content):
        raise _senseless()
    for item in items:
        if item.kind == _GRID:
            data = found.bytes_of(item)
            form = ">II" if data[1] & 1 else ">HH"  # its width and height
            width, height = struct.unpack_from(form, data, 4)
            _check_coded(width, height, found.limit)
        elif item.kind == _AV1:
            _check_coded(*_frame_size(found.bytes_of(item)), found.limit)
    pieces = [
        piece
        for item in items
        if item.kind == coded and not item.in_header
        for piece in item.extents
    ]
    missing = share_missing(len(content), pieces)
    if missing > MISSING:  # decoders may leave the tiles out that are not there
        raise cut_off(missing)
    return _open(kind, content, missing)


def _open(kind: str, content: bytes, missing: float) -> PictureFile:
    prepare_decoders()
    try:
        with Image.open(io.BytesIO(content), formats=[kind]) as image:
            return PictureFile(
                kind,
                *image.size,
                content,
                # libheif turns by itself. Of AVIF Pillow tells as EXIF what the boxes say.
                image.getexif().get(_ORIENTATION, 1) if kind == "AVIF" else 1,
                (image.info.get("icc_profile") or b"")[:MAX_PROFILE],
                missing=missing,
            )
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001, decoders raise whatever they stumble over
        if missing:
            raise cut_off(missing) from None
        raise _senseless() from None


def _check_coded(width: int, height: int, limit: int) -> None:
    """Hold what is coded to the limit of what is shown; it is larger by what fills its blocks."""
    if max(1, width - _FILL) * max(1, height - _FILL) > limit:
        check_size(width, height, limit)


def _senseless() -> PictureError:
    return PictureError("picture is damaged: its header makes no sense")


def _boxes(content: bytes, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, begin and end of the body of each box; the last may end behind the file."""
    for _ in range(_MOST):
        if start + 8 > stop:
            return
        size, kind = struct.unpack_from(">I4s", content, start)
        body = start + 8
        if size == 1:
            [size] = struct.unpack_from(">Q", content, body)
            body += 8
        elif size == 0:
            size = stop - start
        if size < body - start:
            raise _senseless()
        yield kind, body, start + size
        start += size
    raise _senseless()


def _without_films(content: bytes, kind: str, boxes: list[tuple[bytes, int, int]]) -> bytes:
    """Return it without the tracks of a moving picture: the still beside them is taken."""
    patched = bytearray(content)
    films, still = (b"avis", b"avif") if kind == "AVIF" else (b"hevc", b"heic")
    patched[8:12] = still
    for box, start, end in boxes:
        if box == b"ftyp":
            patched[start:end] = patched[start:end].replace(films, still)
        elif box == b"moov":
            patched[start - 4 : start] = b"free"
    return bytes(patched)


@dataclass
class _Meta:
    """What a file says of its pictures: the main one's number, all items, bytes kept among it.

    None of them may have more than ``limit`` pixels.
    """

    content: bytes
    limit: int
    primary: int = 0
    items: dict[int, _Item] = field(default_factory=dict)
    kept: bytes = b""

    def read(self, start: int, stop: int) -> None:
        for kind, begin, end in _boxes(self.content, start, stop):
            version = self.content[begin]
            match kind:
                case b"pitm":
                    form = ">I" if version else ">H"
                    [self.primary] = struct.unpack_from(form, self.content, begin + 4)
                case b"iinf":
                    self._read_kinds(begin + (8 if version else 6), end)
                case b"iloc":
                    for number, place in _places(self.content, begin):
                        item = self._item(number)
                        item.in_header, item.extents = place.in_header, place.extents
                case b"idat":
                    self.kept = self.content[begin:end]
                case b"iprp":
                    self._check_sizes(begin, end)

    def bytes_of(self, item: _Item) -> bytes:
        source = self.kept if item.in_header else self.content
        return b"".join(source[start : start + length] for start, length in item.extents)

    def _item(self, number: int) -> _Item:
        return self.items.setdefault(number, _Item())

    def _read_kinds(self, start: int, stop: int) -> None:
        for box, begin, _ in _boxes(self.content, start, stop):
            if box == b"infe":
                form = ">IH4s" if self.content[begin] > 2 else ">HH4s"  # noqa: PLR2004, version
                number, _, kind = struct.unpack_from(form, self.content, begin + 4)
                self._item(number).kind = kind

    def _check_sizes(self, start: int, stop: int) -> None:
        for box, begin, end in _boxes(self.content, start, stop):
            if box == b"ipco":
                for kind, at, _ in _boxes(self.content, begin, end):
                    if kind == b"ispe":
                        width, height = struct.unpack_from(">II", self.content, at + 4)
                        _check_coded(width, height, self.limit)


def _places(content: bytes, at: int) -> Iterator[tuple[int, _Item]]:
    """Yield each item's number and its places, from the box that lists them."""
    version, sizes = content[at], int.from_bytes(content[at + 4 : at + 6], "big")
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    at += 6

    def number(size: int) -> int:
        nonlocal at
        if at + size > len(content):
            raise IndexError
        at += size
        return int.from_bytes(content[at - size : at], "big")

    wide = 4 if version > 1 else 2
    left = _MOST
    for _ in range(number(wide)):
        name = number(wide)
        method = number(2) & 15 if version else 0
        number(2)
        base = number(base_size)
        item = _Item(in_header=method == 1)
        count = number(2)
        left -= 1 + count
        if left < 0:
            raise _senseless()
        for _ in range(count):
            number(index_size)
            offset, length = base + number(offset_size), number(length_size)
            item.extents.append((offset, length))
        yield name, item


_SEQUENCE: Final = 1
_HEADER: Final = 128  # bytes, more than the longest


def _frame_size(data: bytes) -> tuple[int, int]:
    """Return the largest width and height of the frames of an AV1 stream (5.3 and 5.5 there).

    What its boxes say is a promise that the decoder does not hold it to.
    """
    width = height = at = 0
    for _ in range(_MOST):
        if at >= len(data):
            return width, height
        kind, extended, sized = data[at] >> 3 & 15, data[at] >> 2 & 1, data[at] >> 1 & 1
        at += 1 + extended
        size = 0
        for shift in range(0, 56, 7):
            if not sized:
                size = len(data) - at
                break
            size |= (data[at] & 127) << shift
            at += 1
            if not data[at - 1] & 128:
                break
        if kind == _SEQUENCE:
            across, down = _sequence_size(data[at : at + _HEADER])
            width, height = max(width, across), max(height, down)
        at += size
    raise _senseless()


def _sequence_size(header: bytes) -> tuple[int, int]:
    position = 0

    def bits(count: int) -> int:
        nonlocal position
        position += count
        whole = int.from_bytes(header.ljust(_HEADER, b"\0"), "big")
        return whole >> (8 * _HEADER - position) & (1 << count) - 1

    bits(4)  # profile, still
    if bits(1):  # reduced
        bits(5)
    else:
        if bits(1):
            raise PictureError("this kind of AVIF, with times of frames, is not read")
        delayed = bits(1)
        for _ in range(bits(5) + 1):
            bits(12)
            if bits(5) > 7:  # noqa: PLR2004, levels from 4.0 on have tiers
                bits(1)
            if delayed and bits(1):
                bits(4)
    across, down = bits(4) + 1, bits(4) + 1
    return bits(across) + 1, bits(down) + 1
