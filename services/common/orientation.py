"""How a picture is turned to stand upright, as its EXIF orientation says, and boxes in it too."""

from typing import Final

from PIL import Image

Edges = tuple[float, float, float, float]
"""Left, top, right and bottom of a box, from the top left."""

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

_MIRRORED_X: Final = frozenset({2, 3, 7, 8})
_MIRRORED_Y: Final = frozenset({3, 4, 6, 7})


def to_stored(box: Edges, orientation: int, size: tuple[float, float]) -> Edges:
    """Return where what an upright picture shows in a box is before it is turned.

    ``box`` is left, top, right, bottom; ``size`` is width and height before it is turned.
    """
    left, top, right, bottom = box
    if orientation in SIDEWAYS:
        left, top, right, bottom = top, left, bottom, right
    return _mirrored((left, top, right, bottom), orientation, size)


def to_upright(box: Edges, orientation: int, size: tuple[float, float]) -> Edges:
    """Return where what a box holds is once the picture is turned; undoes :func:`to_stored`."""
    left, top, right, bottom = _mirrored(box, orientation, size)
    return (top, left, bottom, right) if orientation in SIDEWAYS else (left, top, right, bottom)


def _mirrored(box: Edges, orientation: int, size: tuple[float, float]) -> Edges:
    left, top, right, bottom = box
    width, height = size
    if orientation in _MIRRORED_X:
        left, right = width - right, width - left
    if orientation in _MIRRORED_Y:
        top, bottom = height - bottom, height - top
    return left, top, right, bottom
