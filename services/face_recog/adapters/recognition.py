"""From a picture file to faces; runs in worker processes, because dlib is not safe in threads."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from services.common.pictures import PictureError, open_picture
from services.face_recog.adapters.models import Models, Pixels, Place
from services.face_recog.domain import (
    Box,
    Encoding,
    Problem,
    RejectedError,
)


@dataclass(frozen=True)
class Found:
    """A picture's searched pixels, its upright size, and its faces: largest first.

    ``places`` are theirs in the pixels, as the engine gave them.
    """

    pixels: Pixels
    width: int
    height: int
    boxes: Sequence[Box]
    scores: Sequence[float]
    places: Sequence[Place]


def find(models: Models, content: bytes, max_faces: int) -> Found:
    """Find the ``max_faces`` largest faces (0: all) of a picture file.

    Raises :class:`RejectedError` when the content is at fault.
    """
    pixels, width, height = _load(content, models.fit)
    scale = width / pixels.shape[1], height / pixels.shape[0]
    faces = [(_box(one.rectangle, scale, width, height), one) for one in models.detect(pixels)]
    faces.sort(key=lambda face: (_area(face[0]), face[1].score), reverse=True)
    faces = faces[: max_faces or None]
    return Found(
        pixels,
        width,
        height,
        [box for box, _ in faces],
        [one.score for _, one in faces],
        [one.place for _, one in faces],
    )


def encode(
    models: Models, pixels: Pixels, places: Sequence[Place], seconds: float
) -> list[Encoding]:
    """Encode the first faces, as many as are begun within so many seconds, but at least one."""
    start = time.monotonic()
    encodings: list[Encoding] = []
    for place in places:
        if encodings and time.monotonic() - start >= seconds:
            break
        encodings.append(models.encode(pixels, place))
    return encodings


def _load(
    content: bytes, fit: Callable[[int, int], tuple[int, int] | None]
) -> tuple[Pixels, int, int]:
    """Return the upright pixels to search, and width and height of the upright original."""
    try:
        picture = open_picture(content)
        width, height = picture.size
        target = fit(width, height)
        image = picture.decode(target).upright(target)
    except PictureError as error:
        problem = Problem.TOO_LARGE if error.too_large else Problem.UNREADABLE
        raise RejectedError(problem, str(error)) from error
    return np.array(image), width, height


def _box(
    rectangle: tuple[float, float, float, float],
    scale: tuple[float, float],
    width: int,
    height: int,
) -> Box:
    across, down = scale
    left, top, right, bottom = rectangle
    return Box(
        left=min(max(round(left * across), 0), width),
        top=min(max(round(top * down), 0), height),
        right=min(max(round(right * across), 0), width),
        bottom=min(max(round(bottom * down), 0), height),
    )


def _area(box: Box) -> int:
    return (box.right - box.left) * (box.bottom - box.top)
