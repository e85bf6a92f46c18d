"""Opens and decodes pictures: the one way in which all services do."""

import io
import math
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageChops, ImageCms, UnidentifiedImageError

from services.common.orientation import SIDEWAYS, TURNS, to_stored
from services.common.picture_files import read_file
from services.common.picture_files.file import (
    MAX_JPEG_PIXELS,
    MAX_PIXELS,
    MISSING,
    PictureError,
    PictureFile,
    cut_off,
)
from services.common.picture_files.jpeg import end_jpeg
from services.common.picture_files.png import mend_png

__all__ = ["MAX_PIXELS", "Picture", "PictureError", "Pixels", "open_picture"]

_WHITE: Final = 255


@dataclass(frozen=True)
class Pixels:
    """The decoded pixels of a picture, not turned yet, in whatever mode the file has."""

    stored: Image.Image
    orientation: int
    profile: bytes
    size: tuple[int, int]
    """Width and height of the file's pixels: ``stored`` may have fewer."""

    def upright(self, size: tuple[int, int] | None = None) -> Image.Image:
        """Return the whole picture as sRGB, in ``size`` (width, height) when that is given.

        Only once: it may reuse the decoded pixels.
        """
        size = size[::-1] if size and self.orientation in SIDEWAYS else size
        return self._turned(_to_rgb(self.stored, self.profile, size))

    def part(self, box: tuple[int, int, int, int]) -> Image.Image:
        """Return what the upright picture shows in a box, as sRGB.

        ``box`` is left, top, right, bottom in pixels; what of it is outside is left away. Only the
        part is turned and converted: the whole picture would be in memory once more. It has
        fewer pixels than the box where fewer were decoded.
        """
        width, height = self.size
        left, top, right, bottom = to_stored(box, self.orientation, self.size)
        across, down = self.stored.width / width, self.stored.height / height
        inside = (
            math.floor(max(0, left) * across),
            math.floor(max(0, top) * down),
            math.ceil(min(width, right) * across),
            math.ceil(min(height, bottom) * down),
        )
        return self._turned(_to_rgb(self.stored.crop(inside), self.profile))

    def _turned(self, image: Image.Image) -> Image.Image:
        return image.transpose(TURNS[self.orientation]) if self.orientation in TURNS else image


@dataclass(frozen=True)
class Picture:
    """A picture that may be decoded."""

    file: PictureFile

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright picture."""
        size = self.file.width, self.file.height
        return size[::-1] if self.file.orientation in SIDEWAYS else size

    def decode(self, enough: tuple[int, int] | None = None) -> Pixels:
        """Return the pixels.

        A JPEG is decoded at a half, a quarter or an eighth of its size where that is ``enough``
        in width and height of the upright picture, or where more would be too many. Raises
        :class:`PictureError` when they cannot be decoded, or when more than ``MISSING`` of them is
        not there.
        """
        if enough and self.file.orientation in SIDEWAYS:
            enough = enough[::-1]
        file = self.file
        smaller = 1
        while file.width * file.height > MAX_PIXELS * smaller**2:
            smaller *= 2
        if smaller > 1:
            most = file.width // smaller, file.height // smaller
            enough = (min(enough[0], most[0]), min(enough[1], most[1])) if enough else most
        return Pixels(self._load(enough), file.orientation, file.profile, (file.width, file.height))

    def _load(self, enough: tuple[int, int] | None) -> Image.Image:
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
            raise self._reason(str(error)) from error

    def _reason(self, error: str) -> Exception:
        if self.file.missing:
            return cut_off(self.file.missing)
        if any(words in error for words in _NO_MEMORY):
            return MemoryError(error)
        if "truncated" in error:
            return PictureError("picture is cut off; send the whole file")
        return PictureError(f"picture is damaged: {error.strip()}")

    def _decode(self, content: bytes, enough: tuple[int, int] | None) -> Image.Image:
        Image.MAX_IMAGE_PIXELS = MAX_JPEG_PIXELS  # Pillow's own limit is lower; headers were read
        image = Image.open(io.BytesIO(content), formats=[self.file.kind])
        if image.size != (self.file.width, self.file.height):
            raise PictureError("picture is damaged: its headers contradict one another")
        if image.mode in _UNREADABLE:
            raise PictureError("a picture of 32 bits a colour is not read; save it with 8 or 16")
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


_NO_MEMORY: Final = ("Memory allocation error: Unspecified", "Out of memory")
"""What decoders say that have no exception for it."""

_UNREADABLE: Final = frozenset({"F", "I"})


def open_picture(content: bytes) -> Picture:
    """Read a picture file's headers, and refuse what cannot be a picture or is too large.

    Raises :class:`PictureError`.
    """
    return Picture(read_file(content))


def _to_rgb(image: Image.Image, profile: bytes, size: tuple[int, int] | None = None) -> Image.Image:
    """Return it as a browser shows it: eight bits, sRGB, on white; in ``size`` if that is given.

    ``profile`` is the file's colour profile; one that is broken or not for such pixels is ignored.
    16 bits a colour lose the lower ones. The image that is given may be changed.
    """
    image = _on_white(_eight_bits(image))
    if size and size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    if profile or image.mode == "LAB":
        image = _to_srgb(image, profile)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return it with eight bits a colour, in a mode that can be scaled."""
    if image.mode.startswith("I"):  # Pillow's own conversion clips to white
        image = image.point(lambda value: value * (1 / 256)).convert("L")
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    return image if image.mode in {"L", "RGB", "CMYK", "LAB"} else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    image.paste((_WHITE,) * 4, mask=ImageChops.invert(image.getchannel("A")))
    return image.convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        source = (
            ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if profile
            else ImageCms.createProfile("LAB")
        )
        if image.mode == "RGB" and ImageCms.getProfileDescription(source).startswith("sRGB"):
            return image
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), image.mode, "RGB"
        )
        return transform.apply(image)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return image
