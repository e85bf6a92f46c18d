"""How well a face can be recognised, from its pixels: size, sharpness, pose and light.

Each is a measure over twice its limit, so 0.5 is where a face stops being worth enrolling. The
limits are where recognition gets worse: faces of 120 people of Labeled Faces in the Wild were made
smaller, blurred, dark, pale and too bright, and compared with another picture of the person by
dlib's network. As they are, 2 % of these pairs are farther apart than one person may be; at the
limits up to 10 %. What is measured is what ISO/IEC 29794-5 names; its own limits are those of
passports, and its reference implementation (OFIQ) wants 400 MB of models.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.common.quality import FIT, Flaw, Quality
from services.face_recog.adapters.models import Pixels, Points, Rectangle

MIN_SIZE: Final = 24
"""Pixels on the shorter side of a face, of those that it is encoded from."""

MIN_SHARPNESS: Final = 0.08
"""Variance of the Laplacian over that of the luminance, in ``_SIDE`` pixels on a side: what is
left of a face of 95 pixels after a Gaussian blur of 3."""

MAX_TURN: Final = 0.35
"""How far the nose lies beside the middle of the eyes, over the distance between these: about 0.1
in pictures from the front, and 0.35 where a head is turned by about 45 degrees.

It tells as much as the points do. Of 1,974 faces of 30 pixels and more in pictures of Labeled Faces
in the Wild, 60 are turned so far by CenterFace's points and 26 by dlib's: these have profiles at
0.05 to 0.15. Of the nine that only dlib's say, none is a profile."""

MIN_RANGE: Final = 16
"""Grey levels between the darkest twentieth of a face and the lightest. Dark skin in good light
has as wide a range as any, which its mean luminance would not tell."""

MAX_CLIPPED: Final = 0.5
"""Share of a face in which all is white, or all is black."""

_INNER: Final = 0.8
"""Of a face's rectangle, on each side: what is not hair and background."""

_SIDE: Final = 32
_DARK: Final = 64
_WHITE: Final = 252
_BLACK: Final = 3


def measure(pixels: Pixels, rectangle: Rectangle, points: Points) -> Quality:
    """Return the quality of the face in a rectangle: left, top, right and bottom, in pixels."""
    left, top, right, bottom = rectangle
    luminance = _luminance(pixels, rectangle)
    dark, light = np.percentile(luminance, (5, 95))
    white, black = (luminance >= _WHITE).mean(), (luminance <= _BLACK).mean()
    if white > MAX_CLIPPED:
        light_flaw = Flaw.OVEREXPOSED
    else:
        light_flaw = Flaw.DARK if light < _DARK or black > MAX_CLIPPED else Flaw.PALE
    scores = {
        Flaw.SMALL: _score(min(right - left, bottom - top) / MIN_SIZE),
        Flaw.BLURRED: _score(_sharpness(luminance) / MIN_SHARPNESS),
        Flaw.TURNED: _score(2 - _turn(points) / MAX_TURN),
        light_flaw: _score(
            min((light - dark) / MIN_RANGE, 2 - white / MAX_CLIPPED, 2 - black / MAX_CLIPPED)
        ),
    }
    worst = min(scores, key=lambda flaw: scores[flaw])
    return Quality(scores[worst], worst if scores[worst] < FIT else None, *scores.values())


def _score(over_limit: float) -> float:
    return float(np.clip(over_limit / 2, 0, 1))


def _luminance(pixels: Pixels, rectangle: Rectangle) -> NDArray[np.float32]:
    """Return the inner part of a face; always of one size, so blur counts in parts of the face."""
    height, width, _ = pixels.shape
    left, top, right, bottom = rectangle
    x, y = (left + right) / 2, (top + bottom) / 2
    across, down = (right - left) * _INNER / 2, (bottom - top) * _INNER / 2
    rows = slice(*np.clip((y - down, y + down + 1), 0, height).astype(int))
    columns = slice(*np.clip((x - across, x + across + 1), 0, width).astype(int))
    part = Image.fromarray(pixels[rows, columns]).convert("L")
    small = part.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32)


def _sharpness(luminance: NDArray[np.float32]) -> float:
    middle = luminance[1:-1, 1:-1]
    beside = luminance[1:-1, :-2] + luminance[1:-1, 2:] + luminance[:-2, 1:-1] + luminance[2:, 1:-1]
    # A grey level more, as much as rounding makes: what is all one colour is not sharp.
    return float(np.var(4 * middle - beside) / (np.var(luminance) + 1))


def _turn(points: Points) -> float:
    eye, other, nose = points
    between = other - eye
    return abs(((nose - (eye + other) / 2) / between).real) if between else float("inf")
