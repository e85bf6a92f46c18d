"""Cuts a face out of a picture."""

import asyncio
import io
import warnings
from typing import Final

from PIL import Image, ImageOps

from services.receiver.domain import MAX_PIXELS, Box, InvalidError

_AT_ONCE: Final = 2
"""Pictures decoded at the same time: 50 megapixels take 150 MB."""

_FORMATS: Final = ("JPEG", "PNG", "WEBP")
_SIXTEEN_BIT: Final = 256
_QUALITY: Final = 95


class PillowCropper:
    """The port ``Cropper``, in threads."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def crop(self, content: bytes, box: Box, margin: float) -> bytes:
        """Return a JPEG of the box of the upright picture and ``margin`` of its size around it."""
        async with self._turn:
            return await asyncio.to_thread(_crop, content, box, margin)


def _crop(content: bytes, box: Box, margin: float) -> bytes:
    upright = _open(content)
    x = round((box.right - box.left) * margin)
    y = round((box.bottom - box.top) * margin)
    part = upright.crop(
        (
            max(0, box.left - x),
            max(0, box.top - y),
            min(upright.width, box.right + x),
            min(upright.height, box.bottom + y),
        )
    )
    output = io.BytesIO()
    part.save(output, "JPEG", quality=_QUALITY)
    return output.getvalue()


def _open(content: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns of sizes that are far above our own limit.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(content), formats=_FORMATS)
        with opened:
            if opened.width * opened.height <= MAX_PIXELS:
                return _rgb(ImageOps.exif_transpose(opened))
    except Exception as error:
        # Pillow's decoders raise whatever they stumble over.
        raise InvalidError(f"the picture cannot be read: {error}") from error
    raise InvalidError(
        f"the picture has {opened.width} x {opened.height} pixels, the limit is {MAX_PIXELS}"
    )


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow would cut off what is above 255
        image = image.convert("I").point(lambda value: value * (1 / _SIXTEEN_BIT)).convert("L")
    return image.convert("RGB")
