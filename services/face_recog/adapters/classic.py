"""The ``classic`` engine: dlib, with the answers of the ``face_recognition`` package.

Models and every number up to 1024 pixels are that package's (detector HOG, one upsampling, five
landmarks, no jitter). Its modules are not imported: they load two more models, 86 MB, that nothing
here uses.
"""

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Final

import dlib
import numpy as np

from services.face_recog.adapters.models import Detection, Pixels, Place
from services.face_recog.domain import Encoding, Engine

MIN_SCORE: Final = 0.4
"""Detections with a lower score are seldom faces."""

_SMALL: Final = 1024
_LARGE: Final = 2048
_RULES: Final = 3
"""To be raised with every change that changes an answer; kept encodings depend on it."""


LANDMARKS: Final = "shape_predictor_5_face_landmarks.dat"
NETWORK: Final = "dlib_face_recognition_resnet_model_v1.dat"
SIZE: Final = 128
"""Numbers that the network makes of a face."""


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


class Classic:
    """dlib's HOG detector, five landmarks and residual network."""

    def __init__(self) -> None:
        self._detector = dlib.get_frontal_face_detector()
        self._landmarks = dlib.shape_predictor(str(model_file(LANDMARKS)))
        self._network = dlib.face_recognition_model_v1(str(model_file(NETWORK)))
        self.engine = Engine(f"{models_version()}+rules-{_RULES}", SIZE)

    def fit(self, width: int, height: int) -> tuple[int, int] | None:
        """Return 2048 pixels on the longer side for what has more than 1024."""
        longest = max(width, height)
        if longest <= _SMALL:
            return None
        return max(1, round(width * _LARGE / longest)), max(1, round(height * _LARGE / longest))

    def detect(self, pixels: Pixels) -> list[Detection]:
        """Find faces of 40 pixels and more; of 80 in a large picture that shows such a one."""
        large = max(pixels.shape[:2]) > _SMALL
        found = self.search(pixels, upsample=0 if large else 1)
        if large and not found:
            found = self.search(pixels, upsample=1)
        return found

    def encode(self, pixels: Pixels, place: Place) -> Encoding:
        """Encode the face in a rectangle: left, top, right and bottom, in whole pixels."""
        landmarks = self._landmarks(pixels, dlib.rectangle(*place))
        return np.array(self._network.compute_face_descriptor(pixels, landmarks, 1))

    def search(self, pixels: Pixels, *, upsample: int) -> list[Detection]:
        """Find faces after doubling the picture so many times."""
        rectangles, scores, _ = self._detector.run(pixels, upsample, 0.0)
        sides = [(one.left(), one.top(), one.right(), one.bottom()) for one in rectangles]
        return [
            Detection(one, float(score), one)
            for one, score in zip(sides, scores, strict=True)
            if score >= MIN_SCORE
        ]
