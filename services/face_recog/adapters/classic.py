"""The ``classic`` engine: dlib, with the answers of the ``face_recognition`` package.

Models and every number up to 3 megapixels are that package's (detector HOG, one upsampling, five
landmarks, no jitter). Its modules are not imported: they load two more models, 86 MB, that nothing
here uses.
"""

import importlib.metadata
import importlib.util
import math
from pathlib import Path
from typing import Any, Final

import dlib
import numpy as np

from services.face_recog.adapters.models import Detection, Pixels, Place, Points, Rectangle
from services.face_recog.adapters.tiles import Tile, are_whole, cut, distinct, levels
from services.face_recog.domain.engines import Engine
from services.face_recog.domain.faces import Encoding

MIN_SCORE: Final = 0.4
"""Detections with a lower score are seldom faces."""

_WHOLE_PIXELS: Final = 2048 * 1536
"""What has no more is searched as a whole at twice its size, as the package does: that takes 0.8 s.
What has more is searched in tiles, at the scale that makes as many pixels, but not below its own
size: the package would take 3 s for a phone's photograph, and not say what it has no memory for."""

_AS_THE_PACKAGE: Final = 2.0
"""The scale at which it searches: of one upsampling."""

_TILE: Final = 2048
"""Pixels on a side of what is searched at once."""

_COARSER: Final = 3
_OVERLAP: Final = 320
"""Each level is so many times smaller than that before. The detector's smallest face has 80
pixels, so a level finds those of 240 and more of the one before: those of up to that many pixels
are whole in a tile."""

_RULES: Final = 5
"""To be raised with every change of boxes or encodings; what is kept depends on it."""

LANDMARKS: Final = "shape_predictor_5_face_landmarks.dat"
NETWORK: Final = "dlib_face_recognition_resnet_model_v1.dat"
SIZE: Final = 128
"""Numbers that the network makes of a face."""

CHIP_SIDE: Final = 150
"""Pixels on a side of the network's input."""

CHIP_PADDING: Final = 0.25
"""Of a face, around it: what the network was trained with."""


def model_file(name: str) -> Path:
    """Return a file of the package of models."""
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or spec.origin is None:
        raise RuntimeError("face_recognition_models is not installed")
    return Path(spec.origin).parent / "models" / name


def models_version() -> str:
    """Return which dlib and which models these are."""
    version = importlib.metadata.version("face_recognition_models")
    return f"dlib-{dlib.__version__}+models-{version}"


def cut_out(pixels: Pixels, landmarks: Any) -> tuple[Pixels, Points]:
    """Return the network's input of a face with dlib's five landmarks, and its eyes and nose."""
    chip = dlib.get_face_chip(pixels, landmarks, CHIP_SIDE, CHIP_PADDING)
    return chip, eyes_and_nose_of(landmarks)


def eyes_and_nose_of(landmarks: Any) -> Points:
    """Return these of dlib's five landmarks: the corners of both eyes, and the nose."""
    corners = [complex(point.x, point.y) for point in landmarks.parts()]
    return (corners[2] + corners[3]) / 2, (corners[0] + corners[1]) / 2, corners[4]


class Classic:
    """dlib's HOG detector, five landmarks and residual network."""

    def __init__(self) -> None:
        self._detector = dlib.get_frontal_face_detector()
        self._landmarks = dlib.shape_predictor(str(model_file(LANDMARKS)))
        self._network = dlib.face_recognition_model_v1(str(model_file(NETWORK)))
        self.engine = Engine(f"{models_version()}+rules-{_RULES}", SIZE)
        self.side = CHIP_SIDE

    def scale(self, pixels: int) -> float:
        """Return at which scale a picture of so many pixels is searched."""
        return min(_AS_THE_PACKAGE, max(1.0, _AS_THE_PACKAGE * math.sqrt(_WHOLE_PIXELS / pixels)))

    def detect(self, pixels: Pixels, scale: float) -> list[Detection]:
        """Find faces of 40 pixels and more; from 3 megapixels on of more, and of 80 from 13 on."""
        if scale == _AS_THE_PACKAGE:
            return self.search(pixels, upsample=1)
        found = [
            _moved(face, 1 / smaller_by, tile)
            for smaller_by, level in levels(pixels, scale, _COARSER, _TILE // 2)
            for tile, part in cut(level, _TILE, _OVERLAP)
            for face in self._search_tile(part, tile, level)
        ]
        if not found:
            return []
        best = distinct(
            np.array([face.rectangle for face in found]), np.array([face.score for face in found])
        )
        return [found[number] for number in best]

    def lay(self, pixels: Pixels, rectangle: Rectangle) -> Detection:  # noqa: ARG002
        """Take the rectangle for one of the detector's: it sees no more in a part of a picture."""
        return Detection(rectangle, 0.0, tuple(round(side) for side in rectangle))

    def chip(self, pixels: Pixels, place: Place) -> tuple[Pixels, Points]:
        """Cut out the face in a rectangle: left, top, right and bottom, in whole pixels."""
        return cut_out(pixels, self._landmarks(pixels, dlib.rectangle(*place)))

    def encode(self, chip: Pixels) -> Encoding:
        """Encode a face that was cut out."""
        return np.array(self._network.compute_face_descriptor(chip))

    def search(self, pixels: Pixels, *, upsample: int) -> list[Detection]:
        """Find faces after doubling the picture so many times."""
        rectangles, scores, _ = self._detector.run(pixels, upsample, 0.0)
        sides = [(box.left(), box.top(), box.right(), box.bottom()) for box in rectangles]
        return [
            Detection(rectangle, float(score), rectangle)
            for rectangle, score in zip(sides, scores, strict=True)
            if score >= MIN_SCORE
        ]

    def _search_tile(self, part: Pixels, tile: Tile, level: Pixels) -> list[Detection]:
        """Return what a tile shows, without what its edge inside the picture cuts off."""
        height, width, _ = level.shape
        found = self.search(np.ascontiguousarray(part), upsample=0)
        rectangles = np.array([face.rectangle for face in found]).reshape(-1, 4)
        whole = are_whole(rectangles + np.tile(tile[:2], 2), tile, width, height)
        return [face for face, is_whole in zip(found, whole, strict=True) if is_whole]


def _moved(face: Detection, scale: float, tile: Tile) -> Detection:
    """Return a face that was found in a tile, in the pixels of the picture."""
    left, top, right, bottom = (
        round((side + start) * scale)
        for side, start in zip(face.rectangle, (*tile[:2], *tile[:2]), strict=True)
    )
    sides = left, top, right, bottom
    return Detection(sides, face.score, sides)
