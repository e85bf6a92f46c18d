"""Cuts a face out of a picture."""

import asyncio
import io
from collections.abc import Sequence
from typing import Final

from PIL import ExifTags, Image

from services.common.pictures import FORMATS, MAX_PIXELS, SIDEWAYS, TURNS
from services.receiver.domain import Box, InvalidError

_AT_ONCE: Final = 1
"""Pictures decoded at the same time. Measured with a small face and 50 megapixels: a JPEG or PNG,
also a transparent one, takes 205 MB, a progressive JPEG 350 MB, a WebP 855 MB in its decoder."""

_SIXTEEN_BIT: Final = 256
_QUALITY: Final = 95

_MIRRORED_X: Final = frozenset({2, 3, 7, 8})
_MIRRORED_Y: Final = frozenset({3, 4, 6, 7})


class PillowCropper:
    """The port ``Cropper``, in threads."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def crop(self, content: bytes, box: Box, margins: Sequence[float]) -> list[bytes]:
        """Return JPEGs of the box of the upright picture and each margin of its size around it."""
        async with self._turn:
            return await asyncio.to_thread(_crops, content, box, margins)


def _crops(content: bytes, box: Box, margins: Sequence[float]) -> list[bytes]:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            if opened.width * opened.height <= MAX_PIXELS:  # as the header says
                opened.load()
                return [_cut(opened, box, margin) for margin in margins]
    except Exception as error:
        # Pillow's decoders raise whatever they stumble over.
        raise InvalidError(f"the picture cannot be read: {error}") from error
    raise InvalidError(
        f"the picture has {opened.width} x {opened.height} pixels, the limit is {MAX_PIXELS}"
    )


def _cut(opened: Image.Image, box: Box, margin: float) -> bytes:
    x = round((box.right - box.left) * margin)
    y = round((box.bottom - box.top) * margin)
    wanted = (box.left - x, box.top - y, box.right + x, box.bottom + y)
    orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
    # Only the part is turned and converted: the whole picture would be in memory once more.
    part = _rgb(opened.crop(_stored(wanted, opened.size, orientation)))
    if orientation in TURNS:
        part = part.transpose(TURNS[orientation])
    output = io.BytesIO()
    part.save(output, "JPEG", quality=_QUALITY)
    return output.getvalue()


def _stored(
    wanted: tuple[int, int, int, int], size: tuple[int, int], orientation: int
) -> tuple[int, int, int, int]:
    """Return where a box of the upright picture is in the stored pixels, and no larger than they.

    ``size`` is the stored pixels' width and height.
    """
    left, top, right, bottom = wanted
    width, height = size
    if orientation in SIDEWAYS:
        left, top, right, bottom = top, left, bottom, right
    if orientation in _MIRRORED_X:
        left, right = width - right, width - left
    if orientation in _MIRRORED_Y:
        top, bottom = height - bottom, height - top
    return max(0, left), max(0, top), min(width, right), min(height, bottom)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow would cut off what is above 255
        image = image.convert("I").point(lambda value: value * (1 / _SIXTEEN_BIT)).convert("L")
    return image.convert("RGB")
