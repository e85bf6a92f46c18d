"""Cuts a face out of a picture."""

import asyncio
import io
from collections.abc import Sequence
from typing import Final

from services.common.pictures import Pixels, open_picture
from services.receiver.domain import Box, InvalidError

_AT_ONCE: Final = 1
"""Pictures decoded at the same time. Measured with a small face and the most pixels that each may
have: a JPEG or PNG, also a transparent one, takes 260 MB, a progressive JPEG 640 MB, of a printer
770 MB, a HEIC 540 MB, an AVIF 550 MB, a WebP 800 MB in its decoder."""

_QUALITY: Final = 95


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
        pixels = open_picture(content).decode()
        return [_cut(pixels, box, margin) for margin in margins]
    except Exception as error:
        # Beside what the rule refuses: another picture may be there now, and not have that box.
        raise InvalidError(f"the picture cannot be read: {error}") from error


def _cut(pixels: Pixels, box: Box, margin: float) -> bytes:
    x = round((box.right - box.left) * margin)
    y = round((box.bottom - box.top) * margin)
    part = pixels.part((box.left - x, box.top - y, box.right + x, box.bottom + y))
    output = io.BytesIO()
    part.save(output, "JPEG", quality=_QUALITY)
    return output.getvalue()
