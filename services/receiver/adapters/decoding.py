"""Makes other pictures of one: cuts a face out, or makes it smaller."""

import asyncio
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from PIL import Image

from services.common.faces import Box
from services.common.picture_decoding import Pixels, open_picture
from services.receiver.domain.errors import BusyError, InvalidError

_AT_ONCE: Final = 1
"""Pictures decoded at the same time. Measured with a small face and the most pixels that each may
have: a JPEG or PNG, also a transparent one, takes 260 MB, a progressive JPEG 640 MB, of a printer
770 MB, a HEIC 540 MB, an AVIF 550 MB, a WebP 800 MB in its decoder."""

_CROP_QUALITY: Final = 95
_SMALL_QUALITY: Final = 82

_FACE_MARGIN: Final = 0.25
"""Of a box's size, on each side of it."""


class PillowDecoder:
    """The ports ``Cropper`` and ``Shrinker``, in threads."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def crop(self, content: bytes, box: Box, margins: Sequence[float]) -> list[bytes]:
        async with self._turn:
            return await asyncio.to_thread(crops, content, box, margins)

    async def shrink(self, content: bytes, longest_side: int) -> bytes:
        async with self._turn:
            return await asyncio.to_thread(shrunk, content, longest_side)

    async def shrink_face(self, content: bytes, box: Box, side: int) -> bytes:
        async with self._turn:
            return await asyncio.to_thread(shrunk_face, content, box, side)


def crops(content: bytes, box: Box, margins: Sequence[float]) -> list[bytes]:
    """Do what :meth:`PillowDecoder.crop` does, in this thread."""
    with _refusing():
        pixels = open_picture(content).decode()
        return [_cut(pixels, box, margin) for margin in margins]


def shrunk(content: bytes, longest_side: int) -> bytes:
    """Do what :meth:`PillowDecoder.shrink` does, in this thread."""
    with _refusing():
        picture = open_picture(content)
        width, height = picture.size
        scale = min(1, longest_side / max(width, height))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        return _small(picture.decode(size).upright(size))


def shrunk_face(content: bytes, box: Box, side: int) -> bytes:
    """Do what :meth:`PillowDecoder.shrink_face` does, in this thread."""
    with _refusing():
        picture = open_picture(content)
        width, height = picture.size
        size = max(box.right - box.left, box.bottom - box.top) * (1 + 2 * _FACE_MARGIN)
        whole = min(max(1, round(size)), width, height)
        left = min(max(0, (box.left + box.right - whole) // 2), width - whole)
        top = min(max(0, (box.top + box.bottom - whole) // 2), height - whole)
        side = min(side, whole)
        enough = math.ceil(width * side / whole), math.ceil(height * side / whole)
        part = picture.decode(enough).part((left, top, left + whole, top + whole))
        return _small(part.resize((side, side), Image.Resampling.LANCZOS))


def _small(image: Image.Image) -> bytes:
    # A new image, because the old one carries the file's comments and profiles along.
    clean = Image.frombytes("RGB", image.size, image.tobytes())
    output = io.BytesIO()
    clean.save(output, "JPEG", quality=_SMALL_QUALITY, progressive=True)
    return output.getvalue()


@contextmanager
def _refusing() -> Iterator[None]:
    """Tell faults of the content, which is refused for good, from those of the machine."""
    try:
        yield
    except Exception as error:
        # Decoders raise anything on content made to break them, but no number of the system's. And
        # another picture may be there now that does not have a box.
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
            raise BusyError(f"this picture cannot be read now: {error}") from error
        raise InvalidError(f"the picture cannot be read: {error}") from error


def _cut(pixels: Pixels, box: Box, margin: float) -> bytes:
    x = round((box.right - box.left) * margin)
    y = round((box.bottom - box.top) * margin)
    part = pixels.part((box.left - x, box.top - y, box.right + x, box.bottom + y))
    output = io.BytesIO()
    part.save(output, "JPEG", quality=_CROP_QUALITY)
    return output.getvalue()
