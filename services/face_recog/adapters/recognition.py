"""From a picture file to faces; runs in worker processes, because dlib is not safe in threads.

The models and every number up to 1024 pixels are those of the ``face_recognition`` package
(detector HOG, one upsampling, five landmarks, no jitter). Its modules are not imported: they load
two more models, 86 MB, that nothing here uses.
"""

import functools
import importlib.metadata
import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import dlib
import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile

from services.common.pictures import PictureError, open_picture
from services.face_recog.domain import (
    Box,
    Encoding,
    Problem,
    RejectedError,
)

MIN_SCORE: Final = 0.4
"""Detections with a lower score are seldom faces."""

_SMALL: Final = 1024
_LARGE: Final = 2048
_RULES: Final = 3
"""To be raised with every change here that changes an answer; kept encodings depend on it."""

Pixels = NDArray[np.uint8]
Rectangle = tuple[int, int, int, int]


@dataclass(frozen=True)
class Models:
    """The loaded models, and the name under which their encodings are kept."""

    detector: Any
    landmarks: Any
    encoder: Any
    engine: str


@functools.cache
def load_models() -> Models:
    """Load the models, once in a process."""
    # Some packages switch this on for the whole process; what is missing must be noticed.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or spec.origin is None:
        raise RuntimeError("face_recognition_models is not installed")
    folder = Path(spec.origin).parent / "models"
    models = importlib.metadata.version("face_recognition_models")
    return Models(
        detector=dlib.get_frontal_face_detector(),
        landmarks=dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat")),
        encoder=dlib.face_recognition_model_v1(
            str(folder / "dlib_face_recognition_resnet_model_v1.dat")
        ),
        engine=f"dlib-{dlib.__version__}+models-{models}+rules-{_RULES}",
    )


@dataclass(frozen=True)
class Found:
    """A picture's searched pixels, its upright size, and its faces: largest first.

    ``rectangles`` are their places in the pixels, as dlib names them: left, top, right, bottom.
    """

    pixels: Pixels
    width: int
    height: int
    boxes: Sequence[Box]
    scores: Sequence[float]
    rectangles: Sequence[Rectangle]


def find(content: bytes, max_faces: int) -> Found:
    """Find the ``max_faces`` largest faces (0: all) of a picture file.

    Raises :class:`RejectedError` when the content is at fault.
    """
    pixels, width, height = _load(content)
    large = max(width, height) > _SMALL
    found = _detect(pixels, upsample=0 if large else 1)
    if large and not found:
        found = _detect(pixels, upsample=1)
    scale = width / pixels.shape[1], height / pixels.shape[0]
    faces = [
        (_box(rectangle, scale, width, height), score, rectangle) for rectangle, score in found
    ]
    faces.sort(key=lambda face: (_area(face[0]), face[1]), reverse=True)
    faces = faces[: max_faces or None]
    return Found(
        pixels,
        width,
        height,
        [box for box, _, _ in faces],
        [score for _, score, _ in faces],
        [(one.left(), one.top(), one.right(), one.bottom()) for _, _, one in faces],
    )


def encode(pixels: Pixels, rectangles: Sequence[Rectangle], seconds: float) -> list[Encoding]:
    """Encode the first faces, as many as are begun within so many seconds, but at least one."""
    start = time.monotonic()
    encodings: list[Encoding] = []
    for rectangle in rectangles:
        if encodings and time.monotonic() - start >= seconds:
            break
        encodings.append(_encode(pixels, dlib.rectangle(*rectangle)))
    return encodings


def _load(content: bytes) -> tuple[Pixels, int, int]:
    """Return the upright pixels to search, and width and height of the upright original."""
    try:
        picture = open_picture(content)
        width, height = picture.size
        target = _target(width, height)
        image = picture.decode(target).upright(target)
    except PictureError as error:
        problem = Problem.TOO_LARGE if error.too_large else Problem.UNREADABLE
        raise RejectedError(problem, str(error)) from error
    return np.array(image), width, height


def _target(width: int, height: int) -> tuple[int, int] | None:
    """Return the size at which to search a large picture; None for one that is left as it is."""
    longest = max(width, height)
    if longest <= _SMALL:
        return None
    return max(1, round(width * _LARGE / longest)), max(1, round(height * _LARGE / longest))


def _detect(pixels: Pixels, *, upsample: int) -> list[tuple[Any, float]]:
    rectangles, scores, _ = load_models().detector.run(pixels, upsample, 0.0)
    return [
        (rectangle, float(score))
        for rectangle, score in zip(rectangles, scores, strict=True)
        if score >= MIN_SCORE
    ]


def _encode(pixels: Pixels, rectangle: Any) -> Encoding:
    models = load_models()
    landmarks = models.landmarks(pixels, rectangle)
    return np.array(models.encoder.compute_face_descriptor(pixels, landmarks, 1))


def _box(rectangle: Any, scale: tuple[float, float], width: int, height: int) -> Box:
    across, down = scale
    return Box(
        left=min(max(round(rectangle.left() * across), 0), width),
        top=min(max(round(rectangle.top() * down), 0), height),
        right=min(max(round(rectangle.right() * across), 0), width),
        bottom=min(max(round(rectangle.bottom() * down), 0), height),
    )


def _area(box: Box) -> int:
    return (box.right - box.left) * (box.bottom - box.top)
