"""Decoding of pictures with Pillow: nothing of the original file reaches a browser."""

import io
from typing import Final

from PIL import Image

from services.common.pictures import TURNS, eight_bits, open_picture

_BACKGROUND: Final = (128, 128, 128)  # behind transparent pixels: dark and light drawings show


def shrink(content: bytes, longest_side: int) -> bytes | None:
    """Return an upright JPEG without metadata, or None when the content is no usable picture."""
    try:
        picture = open_picture(content)
        plain = _plain(picture.decode((longest_side, longest_side)))
        if plain.mode == "RGBA":
            # Smooth scaling copies all transparent pixels first: leave it few enough.
            plain.thumbnail((4 * longest_side, 4 * longest_side), Image.Resampling.NEAREST)
        plain.thumbnail((longest_side, longest_side), reducing_gap=2.0)
        upright = _flat(plain)
        if picture.orientation in TURNS:
            upright = upright.transpose(TURNS[picture.orientation])
    except Exception:  # noqa: BLE001, decoders raise anything on content made to break them
        return None
    # A new image, because the old one carries the file's comments and profiles along.
    clean = Image.frombytes("RGB", upright.size, upright.tobytes())
    output = io.BytesIO()
    clean.save(output, "JPEG", quality=82, progressive=True)
    return output.getvalue()


def _plain(image: Image.Image) -> Image.Image:
    """Return it in a mode that can be scaled well."""
    image = eight_bits(image)
    if image.mode in {"L", "RGB", "RGBA"}:
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _flat(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image.convert("RGB")
    flat = Image.new("RGB", image.size, _BACKGROUND)
    flat.paste(image, mask=image.getchannel("A"))
    return flat
