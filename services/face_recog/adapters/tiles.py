"""What is searched: pictures in parts and turned, and what of the answers is one face.

Turns are quarters against the clock, as ``numpy.rot90`` makes them.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import dlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.face_recog.adapters.models import Pixels

SAME: Final = 0.3
"""Two rectangles that share so much of what both cover are one face."""

_INSIDE: Final = 0.8
"""So is one of which so much lies in a better one: the half of a face that a tile shows."""

_ROWS: Final = 128
"""Of what is made of a part of a picture."""

Tile = tuple[int, int, int, int]
"""Left, top, right and bottom of it, in pixels of what is searched."""


def levels(pixels: Pixels, scale: float, coarser: int, last: int) -> Iterator[tuple[float, Pixels]]:
    """Yield a picture at a scale and then so many times smaller and smaller, at least twice.

    The last has at most ``last`` pixels on its shorter side, and shows a face that fills the whole
    picture in no more: parts of one that is larger are taken for faces.
    """
    yield scale, (pixels := smaller(pixels, scale))
    while True:
        scale, pixels = scale / coarser, smaller(pixels, 1 / coarser)
        yield scale, pixels
        if min(pixels.shape[:2]) <= last:
            return


def smaller(pixels: Pixels, scale: float) -> Pixels:
    """Return the picture scaled, or itself where the scale is 1.

    Means of whole pixels first, so that none is skipped, and dlib's bilinear interpolation for the
    rest: together a third of the time of Pillow's, which weighs each pixel.
    """
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    means = math.floor(1 / scale)
    if means > 1:
        # Part by part, since Pillow copies what it works on, and with four bytes a pixel.
        rows = _ROWS * means
        parts = (pixels[top : top + rows] for top in range(0, len(pixels), rows))
        pixels = np.concatenate([np.asarray(Image.fromarray(part).reduce(means)) for part in parts])
    if pixels.shape[:2] == (height, width):
        return pixels
    resized: Pixels = dlib.resize_image(np.ascontiguousarray(pixels), height, width)
    return resized


def cut(pixels: Pixels, tile: int, overlap: int) -> Iterator[tuple[Tile, Pixels]]:
    """Yield the tiles, of at most so many pixels on a side, that cover a picture."""
    height, width, _ = pixels.shape
    for top, bottom in along(height, tile, overlap):
        for left, right in along(width, tile, overlap):
            yield (left, top, right, bottom), pixels[top:bottom, left:right]


def along(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Return the first pixel and that behind the last of each tile along a side."""
    number = max(1, -(-(length - overlap) // (tile - overlap)))
    size = -(-(length + (number - 1) * overlap) // number)
    starts = [nth * (size - overlap) for nth in range(number)]
    return [(start, min(start + size, length)) for start in starts]


def are_whole(
    rectangles: NDArray[np.floating], tile: Tile, width: int, height: int
) -> NDArray[np.bool_]:
    """Tell of rectangles, shape (n, 4), which a tile's edges inside the picture do not cut off."""
    near, far = rectangles[:, :2], rectangles[:, 2:]
    begin, end = np.array(tile[:2]), np.array(tile[2:])
    whole: NDArray[np.bool_] = (
        ((near > begin) | (begin == 0)) & ((far < end) | (end == (width, height)))
    ).all(axis=1)
    return whole


def agreements(rectangle: Sequence[float], others: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return how much of what both cover a rectangle shares with each of others, shape (n, 4)."""
    near, far = np.array(rectangle[:2]), np.array(rectangle[2:])
    sides = np.minimum(far, others[:, 2:]) - np.maximum(near, others[:, :2])
    shared = sides.clip(0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1) + (far - near).prod()
    agreed: NDArray[np.floating] = shared / (areas - shared)
    return agreed


def distinct(rectangles: NDArray[np.floating], scores: NDArray[np.floating]) -> NDArray[np.intp]:
    """Return the numbers of the best of what is one face, best first."""
    order = np.argsort(-scores, kind="stable")
    near, far = rectangles[order, :2], rectangles[order, 2:]
    areas = (far - near).prod(axis=1)
    left = np.ones(len(areas), bool)
    for best in range(len(areas)):
        if left[best]:
            sides = np.minimum(far[best], far) - np.maximum(near[best], near)
            shared = sides.clip(0).prod(axis=1)
            other = (shared < SAME * (areas[best] + areas - shared)) & (shared < _INSIDE * areas)
            left[best + 1 :] &= other[best + 1 :]  # of those before, each is better than this
    return order[left]


def turn(pixels: Pixels, quarters: int) -> Pixels:
    """Return the pixels turned so often; dlib and Pillow want them in a row."""
    return np.rot90(pixels, quarters).copy()


def turn_points(points: NDArray[Any], quarters: int, width: int, height: int) -> NDArray[Any]:
    """Return where points, shape (..., 2), of a picture of that size are after so many turns."""
    for _ in range(quarters % 4):
        points = np.stack([points[..., 1], width - points[..., 0]], axis=-1)
        width, height = height, width
    return points


def turn_rectangles(
    rectangles: NDArray[Any], quarters: int, width: int, height: int
) -> NDArray[Any]:
    """Return where rectangles, shape (..., 4), are: left, top, right and bottom."""
    corners = rectangles.reshape(*rectangles.shape[:-1], 2, 2)
    corners = turn_points(corners, quarters, width, height)
    return np.concatenate([corners.min(axis=-2), corners.max(axis=-2)], axis=-1)
