"""Faces that were found in a picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.common.faces import MIN_SIDE, MOST_FACES, Box, MeasuredFace
from services.face_recog.domain.errors import RejectedError

Encoding = NDArray[np.float64]
"""Shape (size of the engine,)."""


def check_boxes(boxes: Sequence[Box]) -> None:
    """Raise :class:`RejectedError` for boxes that are no faces in any picture."""
    if len(boxes) > MOST_FACES:
        raise RejectedError(f"{len(boxes)} boxes are too many: {MOST_FACES} at most")
    for number, box in enumerate(boxes):
        across, down = box.right - box.left, box.bottom - box.top
        if across < MIN_SIDE or down < MIN_SIDE:
            raise RejectedError(
                f"box {number}, {box}, is {across} x {down} pixels: a face has at least {MIN_SIDE}"
                " on a side (left, top, right, bottom)",
            )


@dataclass(frozen=True)
class DetectedFace(MeasuredFace):
    """A face with its encoding."""

    encoding: Encoding


@dataclass(frozen=True)
class Recognition:
    """What a picture shows: its size in pixels when upright, and its faces.

    They are in the order of the boxes that were asked for, or else largest first.
    """

    width: int
    height: int
    faces: Sequence[DetectedFace]
