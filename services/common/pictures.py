"""Which picture files are read, and how one is turned upright; for all who open them."""

from typing import Final

from PIL import Image

MAX_PIXELS: Final = 50_000_000
"""The largest picture that is decoded; its header says how large it is."""

FORMATS: Final = ("JPEG", "PNG", "WEBP")
"""As Pillow calls them."""

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
