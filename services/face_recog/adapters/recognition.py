"""From a picture file to faces; runs in worker processes, because dlib is not safe in threads."""

import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.common.faces import MOST_FACES, Box, MeasuredFace
from services.common.picture_decoding import PictureError, open_picture
from services.face_recog.adapters.models import Detection, Models, Pixels
from services.face_recog.adapters.quality import measure
from services.face_recog.adapters.tiles import SAME, agreements, smaller, turn, turn_rectangles
from services.face_recog.domain.errors import RejectedError, Rejection
from services.face_recog.domain.faces import Encoding

_STRIP: Final = 256
"""Rows."""

_TURNED: Final = 1 / 2
"""Faces that lie, where none stands, are looked for in a picture so much smaller."""


@dataclass(frozen=True)
class SearchedPicture:
    """A picture's upright size, and its faces, largest first or as they were asked for.

    ``chips``, shape (n, side, side, 3), are the faces as the engine cut them out, to be encoded.
    """

    width: int
    height: int
    faces: Sequence[MeasuredFace]
    chips: NDArray[np.uint8]


def find(
    models: Models, content: bytes, max_faces: int, boxes: Sequence[Box] = ()
) -> SearchedPicture:
    """Find the ``max_faces`` largest faces of a picture file, 0 and too many: ``MOST_FACES``.

    With boxes, the faces are exactly theirs, and in their order: found in the same way, so that one
    that was found before has the encoding that it had, and looked for more closely where that shows
    none. Raises :class:`RejectedError` when the content is at fault, or a box.
    """
    pixels, width, height = _load(content)
    for number, box in enumerate(boxes):
        if box.right > width or box.bottom > height:
            raise RejectedError(
                f"box {number}, {box}, reaches beyond the picture, which has {width} x {height}"
                " pixels (left, top, right, bottom)",
            )
    scale = width / pixels.shape[1], height / pixels.shape[0]
    pixels, quarters, faces = _search(models, pixels)
    across, down = pixels.shape[1], pixels.shape[0]
    placed = []
    for face in faces:
        rectangle = turn_rectangles(np.array(face.rectangle), -quarters, across, down)
        placed.append((_box(rectangle, scale, (width, height)), face))
    if boxes:
        upright = (across, down) if quarters % 2 == 0 else (down, across)

        def lay(box: Box) -> Detection:
            sides = np.array(astuple(box)) / np.tile(scale, 2)
            left, top, right, bottom = turn_rectangles(sides, quarters, *upright).tolist()
            return models.lay(pixels, (left, top, right, bottom))

        agreeing = _agreeing(boxes, [box for box, _ in placed])
        placed = [
            (box, lay(box) if found is None else placed[found][1])
            for box, found in zip(boxes, agreeing, strict=True)
        ]
    else:
        placed.sort(key=lambda face: (face[0].area, face[1].score), reverse=True)
        placed = placed[: min(max_faces or MOST_FACES, MOST_FACES)]
    chips = np.empty((len(placed), models.side, models.side, 3), np.uint8)
    measured = []
    for number, (box, face) in enumerate(placed):
        chips[number], points = models.chip(pixels, face.place)
        quality = measure(pixels, face.rectangle, points)
        measured.append(MeasuredFace(box, face.score, quality=quality))
    return SearchedPicture(width, height, measured, chips)


def encode(models: Models, chips: NDArray[np.uint8], seconds: float) -> list[Encoding]:
    """Encode the first faces, as many as are begun within so many seconds, but at least one."""
    start = time.monotonic()
    encodings: list[Encoding] = []
    for chip in chips:
        if encodings and time.monotonic() - start >= seconds:
            break
        encodings.append(models.encode(chip))
    return encodings


def _load(content: bytes) -> tuple[Pixels, int, int]:
    """Return the upright pixels, and width and height of the upright original."""
    try:
        picture = open_picture(content)
        width, height = picture.size
        image = picture.decode().upright()
    except PictureError as error:
        rejection = Rejection.TOO_LARGE if error.too_large else Rejection.UNREADABLE
        raise RejectedError(str(error), rejection) from error
    return _pixels(image), width, height


def _pixels(image: Image.Image) -> Pixels:
    """Copy an image in strips: as a whole, Pillow would have it in memory twice more."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _STRIP):
        bottom = min(top + _STRIP, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _search(models: Models, pixels: Pixels) -> tuple[Pixels, int, list[Detection]]:
    """Return the pixels turned so that faces stand in them, by how many quarters, and the faces.

    Files that lost their note of how they are to be turned show all faces lying. So the picture is
    turned where none stands, and a smaller one tells by how much: without a face, that takes three
    quarters of the time once more, and with one none.
    """
    height, width, _ = pixels.shape
    scale = models.scale(width * height)
    upright = models.detect(pixels, scale)
    if any(face.quarters == 0 for face in upright):
        return pixels, 0, upright
    small = smaller(pixels, _TURNED)
    scores = {}
    for quarters in (1, 2, 3):
        seen = models.detect(turn(small, quarters), scale)
        scores[quarters] = sum(face.score for face in seen if face.quarters == 0)
    best = max(scores, key=scores.__getitem__)
    if scores[best]:
        turned = turn(pixels, best)
        found = models.detect(turned, scale)
        if any(face.quarters == 0 for face in found):
            return turned, best, found
    return pixels, 0, upright


def _box(rectangle: NDArray[np.floating], scale: tuple[float, float], size: tuple[int, int]) -> Box:
    sides = np.round(rectangle * np.tile(scale, 2)).clip(0, np.tile(size, 2))
    return Box(*sides.astype(int).tolist())


def _agreeing(boxes: Sequence[Box], found: Sequence[Box]) -> list[int | None]:
    """Return the number of that of the found ones with which each agrees most; none is two's."""
    others = np.array([astuple(box) for box in found]).reshape(-1, 4)
    agreed = np.array([agreements(astuple(box), others) for box in boxes])
    chosen: list[int | None] = [None] * len(boxes)
    while agreed.size and agreed.max() >= SAME:
        box, face = np.unravel_index(np.argmax(agreed), agreed.shape)
        chosen[int(box)] = int(face)
        agreed[box, :] = agreed[:, face] = 0
    return chosen
