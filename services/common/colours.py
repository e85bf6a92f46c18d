"""Every kind of pixel as a browser shows it: eight bits, sRGB, on white."""

import io
from typing import Final

from PIL import Image, ImageChops, ImageCms

_WHITE: Final = 255


def to_rgb(
    image: Image.Image, profile: bytes = b"", size: tuple[int, int] | None = None
) -> Image.Image:
    """Return it as RGB, in ``size`` when that is given.

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
