"""From a picture file to faces; runs in worker processes, because dlib is not safe in threads.

The models and every number up to 1024 pixels are those of the ``face_recognition`` package
(detector HOG, one upsampling, five landmarks, no jitter). Its modules are not imported: they load
two more models, 86 MB, that nothing here uses.
"""

import functools
import importlib.metadata
import importlib.util
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import dlib
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from services.common.pictures import FORMATS, MAX_PIXELS, SIDEWAYS, TURNS
from services.face_recog.domain import (
    Box,
    DetectedFace,
    Encoding,
    Problem,
    Recognition,
    RejectedError,
)

MIN_SCORE: Final = 0.4
"""Detections with a lower score are seldom faces."""

_SMALL: Final = 1024
_LARGE: Final = 2048
_RULES: Final = 2
"""To be raised with every change here that changes an answer; kept encodings depend on it."""

Pixels = NDArray[np.uint8]


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
    # Some packages switch this on for the whole process; half a picture is no picture.
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


def recognise(content: bytes, max_faces: int) -> Recognition:
    """Find and encode the ``max_faces`` largest faces (0: all) of a JPEG, PNG or WebP file.

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
    return Recognition(
        width,
        height,
        [
            DetectedFace(box, score, _encode(pixels, rectangle))
            for box, score, rectangle in faces[: max_faces or None]
        ],
    )


def _load(content: bytes) -> tuple[Pixels, int, int]:
    """Return the upright pixels to search, and width and height of the upright original."""
    image: Image.Image = _open(content)
    width, height = image.size
    target = _target(width, height)
    try:
        if target:
            # A JPEG is decoded at half its size or less where that still is enough.
            image.draft(image.mode, target)
        image.load()
        orientation = _orientation(image)
        image = _rgb(image)
        if target:
            image = image.resize(target, Image.Resampling.BICUBIC, reducing_gap=2.0)
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's decoders raise whatever they stumble over.
        raise RejectedError(Problem.UNREADABLE, f"picture is damaged: {error}") from error
    if orientation in TURNS:
        image = image.transpose(TURNS[orientation])
    if orientation in SIDEWAYS:
        width, height = height, width
    return np.array(image), width, height


def _open(content: bytes) -> Image.Image:
    """Read the header only, and refuse what is no picture or too large a one."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures; the limit here is lower.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise RejectedError(
            Problem.TOO_LARGE, f"picture has more than {MAX_PIXELS:,} pixels"
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        raise RejectedError(
            Problem.UNREADABLE, "not a picture that can be read; send a JPEG, PNG or WebP file"
        ) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise RejectedError(
            Problem.TOO_LARGE,
            f"picture has {width} x {height} pixels, the limit is {MAX_PIXELS:,} in all",
        )
    return image


def _target(width: int, height: int) -> tuple[int, int] | None:
    """Return the size at which to search a large picture; None for one that is left as it is."""
    longest = max(width, height)
    if longest <= _SMALL:
        return None
    return max(1, round(width * _LARGE / longest)), max(1, round(height * _LARGE / longest))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001, damaged notes beside a picture do not damage the picture
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits; Pillow's own conversion clips where this scales.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if "transparency" in image.info and image.mode == "P":
        image = image.convert("RGBA")  # straight to RGB, Pillow warns
    return image.convert("RGB")


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
