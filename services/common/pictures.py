"""Which pictures are read, and how: one rule for all who open them."""

import io
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageChops, UnidentifiedImageError

from services.common.picture_files import (
    MISSING,
    PictureError,
    PictureFile,
    cut_off,
    end_jpeg,
    mend_png,
    orientation,
    read_file,
)

__all__ = [
    "MAX_PIXELS",
    "SIDEWAYS",
    "TURNS",
    "Picture",
    "PictureError",
    "eight_bits",
    "open_picture",
    "to_rgb",
]

MAX_PIXELS: Final = 50_000_000
"""The largest picture that is decoded; its header says how large it is."""

TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By the EXIF orientation: how the stored pixels are turned to stand upright; 1 is not turned."""

SIDEWAYS: Final = frozenset({5, 6, 7, 8})
"""The orientations that swap width and height."""


@dataclass(frozen=True)
class Picture:
    """A picture that may be decoded; ``orientation`` is the EXIF one, 1 to 8."""

    file: PictureFile
    orientation: int

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height of the stored pixels."""
        return self.file.width, self.file.height

    def decode(self, enough: tuple[int, int] | None = None) -> Image.Image:
        """Return the stored pixels, not turned yet, in whatever mode the file has.

        A JPEG is decoded at a half, a quarter or an eighth of its size where that is ``enough``
        in width and height. Raises :class:`PictureError` when they cannot be decoded, or when
        more than ``MISSING`` of them is not there.
        """
        try:
            if self.file.is_cut:
                return self._decode_cut(enough)
            try:
                return self._decode(self.file.content, enough)
            except OSError:
                if self.file.kind != "PNG":
                    raise
                return self._decode(mend_png(self.file), enough)
        except (PictureError, MemoryError):
            raise
        except UnidentifiedImageError as error:
            raise PictureError("picture is damaged: its header makes no sense") from error
        except Exception as error:
            # Pillow's decoders raise whatever they stumble over.
            raise PictureError(f"picture is damaged: {error}") from error

    def _decode(self, content: bytes, enough: tuple[int, int] | None) -> Image.Image:
        image = Image.open(io.BytesIO(content), formats=[self.file.kind])
        if image.size != self.stored_size:
            raise PictureError("picture is damaged: its headers contradict one another")
        if enough:
            image.draft(None, enough)
        image.load()
        return image

    def _decode_cut(self, enough: tuple[int, int] | None) -> Image.Image:
        image = self._decode(end_jpeg(self.file), enough)
        end = image.height - int(image.height * MISSING) - 1
        if image.crop((0, end, *image.size)).getcolors(1):  # as decoders leave what is missing
            other = self._decode(end_jpeg(self.file, junk=True), enough)
            changed = ImageChops.difference(image, other).getbbox(alpha_only=False)
            if changed:
                raise cut_off(1 - changed[1] / image.height)
        return image


def eight_bits(image: Image.Image) -> Image.Image:
    """Return a picture of 16 bits a pixel with 8; Pillow's own conversion clips to white."""
    if image.mode.startswith("I"):
        return image.point(lambda value: value * (1 / 256)).convert("L")
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Return it as RGB, without what it has of transparency."""
    if image.mode == "P" and image.has_transparency_data:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns
    return eight_bits(image).convert("RGB")


def open_picture(content: bytes) -> Picture:
    """Read a picture file's headers, and refuse what cannot be a picture or is too large.

    Raises :class:`PictureError`.
    """
    file = read_file(content)
    if file.width * file.height > MAX_PIXELS:
        raise PictureError(
            f"picture has {file.width} x {file.height} pixels, the limit is {MAX_PIXELS:,} in all",
            too_large=True,
        )
    return Picture(file, orientation(file.exif))
