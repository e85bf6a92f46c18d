"""The ``onnx`` engine: CenterFace before an embedder from a file that the operator brings."""

import hashlib
from typing import Final

import dlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.face_recog.adapters.centerface import (
    POINTS,
    CenterFace,
    detections,
    eyes_and_nose,
    square,
)
from services.face_recog.adapters.classic import LANDMARKS, eyes_and_nose_of, model_file
from services.face_recog.adapters.models import Detection, Pixels, Place, Points, Rectangle
from services.face_recog.adapters.onnx import Network
from services.face_recog.domain.engines import Embedder, Engine
from services.face_recog.domain.faces import Encoding
from services.face_recog.domain.known_people import DEFAULT_TOLERANCE

_SIDE: Final = 112
_TEMPLATE: Final = np.array(
    [
        38.2946 + 51.6963j,
        73.5318 + 51.5014j,
        56.0252 + 71.7366j,
        41.5493 + 92.3655j,
        70.7299 + 92.2041j,
    ]
)
"""Where eyes, nose and mouth's corners lie in the 112 x 112 pixels: those that ArcFace made usual
(Deng et al., 2019). Across is the real part, down the imaginary one."""

_RULES: Final = 4
"""To be raised with every change of boxes or encodings; what is kept depends on it."""


class CenterFaceEmbedder:
    """CenterFace before a model of a face's 112 x 112 pixels."""

    def __init__(self, embedder: Embedder) -> None:
        self._detector = CenterFace()
        self._landmarks = dlib.shape_predictor(str(model_file(LANDMARKS)))
        self._embedder = embedder
        try:
            model = embedder.file.read_bytes()
        except OSError as error:
            raise OSError(f"EMBEDDER_FILE cannot be read: {error}") from None
        try:
            self._network = Network(model)
            numbers = self._run(np.zeros((_SIDE, _SIDE, 3), np.uint8))
        except Exception as error:  # ONNX Runtime has a dozen kinds
            raise OSError(
                f"EMBEDDER_FILE {embedder.file} is no ONNX model that takes one 112 x 112 picture"
                f" (1 x 3 x 112 x 112 numbers): {error}"
            ) from error
        if numbers.shape != (embedder.size,):
            raise OSError(
                f"EMBEDDER_FILE {embedder.file} makes encodings of the shape {numbers.shape}, but"
                f" EMBEDDER_SIZE is {embedder.size}"
            )
        # Another file and another reading of its input make other encodings.
        how = (embedder.mean, embedder.scale, embedder.colours, embedder.distance)
        version = hashlib.sha256(hashlib.sha256(model).digest() + repr(how).encode()).hexdigest()
        self.engine = Engine(f"centerface+onnx-{version[:16]}+rules-{_RULES}", embedder.size)
        self.side = _SIDE
        self.scale = self._detector.scale

    def detect(self, pixels: Pixels, scale: float) -> list[Detection]:
        """Find faces as :class:`CenterFace` does; the place of one begins with its five points."""
        return detections(self._detector.find(pixels, scale))

    def lay(self, pixels: Pixels, rectangle: Rectangle) -> Detection:
        """Return the face in a rectangle; with the eyes and nose of dlib's where nobody sees it."""
        for seen in detections(self._detector.look_closer(pixels, rectangle)):
            return seen
        laid = self._landmarks(pixels, dlib.rectangle(*square(*rectangle, 0)))
        place = [side for point in eyes_and_nose_of(laid) for side in (point.real, point.imag)]
        return Detection(rectangle, 0.0, place)

    def chip(self, pixels: Pixels, place: Place) -> tuple[Pixels, Points]:
        """Cut out the face with these points, turned so that they lie as usual."""
        return align(pixels, place[:POINTS]), eyes_and_nose(place)

    def encode(self, chip: Pixels) -> Encoding:
        """Encode a face that was cut out."""
        numbers = self._run(chip).astype(np.float64)
        # The distance that tells two people apart becomes that which does so for every engine.
        length = DEFAULT_TOLERANCE / self._embedder.distance
        encoding: Encoding = numbers * (length / np.linalg.norm(numbers))
        return encoding

    def _run(self, pixels: Pixels) -> NDArray[np.float32]:
        if self._embedder.colours == "BGR":
            pixels = pixels[:, :, ::-1]
        values = (pixels.transpose(2, 0, 1)[None].astype(np.float32) - self._embedder.mean) / (
            self._embedder.scale
        )
        numbers: NDArray[np.float32] = self._network.run(values)[0][0]
        return numbers


def align(pixels: Pixels, points: Place) -> Pixels:
    """Return a face, turned, scaled and moved so that its points come nearest to the usual.

    They are the first of those, three or five. The result has the shape (112, 112, 3); black is
    what lies outside the picture.
    """
    # As complex numbers, points that are turned, scaled and moved are turn * points + move.
    seen = np.array(points[::2]) + 1j * np.array(points[1::2])
    usual = _TEMPLATE[: len(seen)]
    from_centre = usual - usual.mean()
    turn = np.vdot(seen - seen.mean(), from_centre) / np.vdot(
        seen - seen.mean(), seen - seen.mean()
    )
    # From the result to the picture, which is first made smaller where pixels would be skipped.
    back = 1 / turn
    start = seen.mean() - back * usual.mean()
    image = Image.fromarray(pixels)
    smaller = int(abs(back))
    if smaller > 1:
        image = image.reduce(smaller)
        back, start = back / smaller, start / smaller
    aligned = image.transform(
        (_SIDE, _SIDE),
        Image.Transform.AFFINE,
        (back.real, -back.imag, start.real, back.imag, back.real, start.imag),
        Image.Resampling.BILINEAR,
    )
    return np.array(aligned)
