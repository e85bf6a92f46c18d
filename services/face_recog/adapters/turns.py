"""Quarter turns against the clock, as ``numpy.rot90`` makes them: of pixels and of places."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.face_recog.adapters.models import Pixels


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
