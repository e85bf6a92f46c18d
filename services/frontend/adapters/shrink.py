"""Decoding of pictures with Pillow: nothing of the original file reaches a browser."""

import io

from PIL import Image

from services.common.pictures import open_picture


def shrink(content: bytes, longest_side: int) -> bytes | None:
    """Return an upright JPEG without metadata, or None when the content is no usable picture."""
    try:
        picture = open_picture(content)
        width, height = picture.size
        scale = min(1, longest_side / max(width, height))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        upright = picture.decode(size).upright(size)
    except Exception:  # noqa: BLE001, decoders raise anything on content made to break them
        return None
    # A new image, because the old one carries the file's comments and profiles along.
    clean = Image.frombytes("RGB", upright.size, upright.tobytes())
    output = io.BytesIO()
    clean.save(output, "JPEG", quality=82, progressive=True)
    return output.getvalue()
