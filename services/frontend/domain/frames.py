"""Which part of a picture is shown, and where in it the boxes and labels of faces are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.common.faces import Box
from services.frontend.domain.faces import Face
from services.frontend.domain.pictures import SubmittedPicture

_EDGE: Final = 12.0
"""Percent of a frame's height that a label takes on the smallest screen."""


@dataclass(frozen=True)
class Frame:
    """The part of a picture that a page shows, in pixels; it may reach beyond the picture.

    ``fit`` is the CSS class that makes a browser show exactly this part.
    """

    left: float
    top: float
    width: float
    height: float
    fit: str


@dataclass(frozen=True)
class Mark:
    """A face's box and label within a frame, in percent of the frame."""

    face: Face
    left: float
    top: float
    width: float
    height: float
    label_left: float
    label_top: float
    label_width: float
    label_class: str


@dataclass(frozen=True)
class _Area:
    left: float
    top: float
    right: float
    bottom: float

    @property
    def is_on_the_left(self) -> bool:
        """Tell where its label starts; in the right part it ends there, or it would be cut off."""
        return self.left <= 100 - self.right


def card_frame(picture: SubmittedPicture, aspect: float) -> Frame | None:
    """Choose the part of a picture that fills a card of this aspect ratio.

    The picture fills the card when all faces stay visible, else it is shown whole.
    None when its size is not known.
    """
    if picture.size is None:
        return None
    width, height = picture.size
    if width / height > aspect:
        size, shown = width, height * aspect
        low = min((face.box.left for face in picture.faces), default=0)
        high = max((face.box.right for face in picture.faces), default=0)
    else:
        size, shown = height, width / aspect
        low = min((face.box.top for face in picture.faces), default=0)
        high = max((face.box.bottom for face in picture.faces), default=0)
    room = size - shown
    if high - low > shown:
        return whole_frame(picture, aspect)
    # Percent in steps of 5, the positions that the style sheet has classes for.
    wanted = (low + high - shown) / 2 if picture.faces else room / 2
    percent = round(min(max(wanted / room, 0), 1) * 20) * 5 if room else 50
    offset = room * percent / 100
    if picture.faces and not offset <= low <= high <= offset + shown:
        return whole_frame(picture, aspect)
    fit = f"cover at-{percent}"
    if width / height > aspect:
        return Frame(offset, 0, shown, height, fit)
    return Frame(0, offset, width, shown, fit)


def whole_frame(picture: SubmittedPicture, aspect: float) -> Frame | None:
    """Return the smallest frame of this aspect ratio around the whole picture."""
    if picture.size is None:
        return None
    width, height = picture.size
    shown_width = max(width, height * aspect)
    shown_height = shown_width / aspect
    return Frame(
        (width - shown_width) / 2,
        (height - shown_height) / 2,
        shown_width,
        shown_height,
        "contain",
    )


def marks(faces: Sequence[Face], frame: Frame) -> list[Mark]:
    """Return where the boxes and labels of faces are within a frame."""
    areas = [_area(face.box, frame) for face in faces]
    return [
        _mark(face, area, [other for other in areas if other is not area])
        for face, area in zip(faces, areas, strict=True)
    ]


def _area(box: Box, frame: Frame) -> _Area:
    return _Area(
        (box.left - frame.left) / frame.width * 100,
        (box.top - frame.top) / frame.height * 100,
        (box.right - frame.left) / frame.width * 100,
        (box.bottom - frame.top) / frame.height * 100,
    )


def _mark(face: Face, area: _Area, others: Sequence[_Area]) -> Mark:
    left, right, top, bottom = area.left, area.right, area.top, area.bottom
    # Above the box, or below it where there is no room above, or in it where there is neither.
    if top > _EDGE:
        label_top, place, begin = top, "above", top - _EDGE
    elif bottom < 100 - _EDGE:
        label_top, place, begin = bottom, "below", bottom
    else:
        label_top, place, begin = top, "below", top
    # Beside it, with their labels: a long name ends before them, at the least it has its own box.
    beside = [
        other
        for other in others
        if other.top - _EDGE < begin + _EDGE and other.bottom + _EDGE > begin
    ]
    if area.is_on_the_left:
        side = "start"
        ends = [
            # Two labels that grow towards each other share the room between their boxes.
            other.left if other.is_on_the_left else (right + other.left) / 2
            for other in beside
            if other.left > left
        ]
        label_left = left
        label_width = max(min(ends, default=100.0), right) - left
    else:
        side = "end"
        starts = [
            (other.right + left) / 2 if other.is_on_the_left else other.right
            for other in beside
            if other.right < right
        ]
        label_left = min(max(starts, default=0.0), left)
        label_width = right - label_left
    return Mark(
        face=face,
        left=round(left, 3),
        top=round(top, 3),
        width=round(right - left, 3),
        height=round(bottom - top, 3),
        label_left=round(label_left, 3),
        label_top=round(label_top, 3),
        label_width=round(label_width, 3),
        label_class=f"{place} {side}",
    )
