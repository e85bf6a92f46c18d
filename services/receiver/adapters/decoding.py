"""Makes other pictures of one: cuts a face out, or makes it smaller."""

import asyncio
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from PIL import Image

from services.common.pictures import Pixels, open_picture
from services.receiver.domain import Box, BusyError, InvalidError

_AT_ONCE: Final = 1
"""Pictures decoded at the same time. Measured with a small face and the most pixels that each may
have: a JPEG or PNG, also a transparent one, takes 260 MB, a progressive JPEG 640 MB, of a printer
770 MB, a HEIC 540 MB, an AVIF 550 MB, a WebP 800 MB in its decoder."""

_CROP_QUALITY: Final = 95
_SMALL_QUALITY: Final = 82


class PillowDecoder:
    """The ports ``Cropper`` and ``Shrinker``, in threads."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def crop(self, content: bytes, box: Box, margins: Sequence[float]) -> list[bytes]:
        """Return JPEGs of the box of the upright picture and each margin of its size around it."""
        async with self._turn:
            return await asyncio.to_thread(crops, content, box, margins)

    async def shrink(self, content: bytes, longest_side: int) -> bytes:
        """Return an upright JPEG without metadata, no side longer than that in pixels."""
        async with self._turn:
            return await asyncio.to_thread(shrunk, content, longest_side)


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
        upright = picture.decode(size).upright(size)
        # A new image, because the old one carries the file's comments and profiles along.
        clean = Image.frombytes("RGB", upright.size, upright.tobytes())
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
