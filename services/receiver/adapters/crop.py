"""Cuts a face out of a picture."""

import asyncio
import io
from collections.abc import Sequence
from typing import Final

from PIL import Image

from services.common.pictures import SIDEWAYS, TURNS, open_picture, to_rgb
from services.receiver.domain import Box, InvalidError

_AT_ONCE: Final = 1
"""Pictures decoded at the same time. Measured with a small face and 50 megapixels: a JPEG or PNG,
also a transparent one, takes 205 MB, a progressive JPEG 350 MB, a WebP 855 MB in its decoder."""

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
        picture = open_picture(content)
        image = picture.decode()
        return [_cut(image, picture.orientation, box, margin) for margin in margins]
    except Exception as error:
        # Beside what the rule refuses: another picture may be there now, and not have that box.
        raise InvalidError(f"the picture cannot be read: {error}") from error


def _cut(image: Image.Image, orientation: int, box: Box, margin: float) -> bytes:
    x = round((box.right - box.left) * margin)
    y = round((box.bottom - box.top) * margin)
    wanted = (box.left - x, box.top - y, box.right + x, box.bottom + y)
    # Only the part is turned and converted: the whole picture would be in memory once more.
    part = to_rgb(image.crop(_stored(wanted, image.size, orientation)))
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
