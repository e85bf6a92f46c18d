"""Images with their results, and what may be done to them."""

from dataclasses import dataclass

from services.common.faces import MIN_SIDE, Box, DecidedBy
from services.common.image_states import FINAL, RETRIABLE, Status
from services.receiver.domain.errors import ConflictError, Fault, InvalidError
from services.receiver.domain.faces import Face, StruckOut, check_free, check_room


@dataclass(frozen=True, slots=True)
class Image:
    """A row with its faces; times are milliseconds since the epoch.

    ``tag`` is that of the picture that the result is about, where somebody may have replaced it
    since, else None.
    """

    id: int
    path: str
    name: str
    status: str
    attempt: int
    error: str | None
    created_at: int
    updated_at: int
    processed_at: int | None
    due_at: int | None
    width: int | None
    height: int | None
    engine: str | None
    tag: str | None
    faces: tuple[Face, ...]
    struck_out: tuple[StruckOut, ...]


@dataclass(frozen=True, slots=True)
class StatusReport:
    """Rows per status and the age in seconds of the oldest that waits."""

    images: dict[str, int]
    oldest_pending_seconds: float | None


def check_recognisable(image: Image) -> None:
    """Raise :class:`ConflictError` for an image that a person may not have looked at again.

    A new result would forget what a person said of a face of the old one.
    """
    if image.status not in FINAL:
        raise ConflictError(f"image {image.id} is {image.status}: it is being looked at anyway")
    named = [face for face in image.faces if face.decided_by is DecidedBy.HAND]
    denied = [face for face in image.faces if face.denials]
    drawn = [face for face in image.faces if face.drawn]
    if named or denied or drawn or image.struck_out:
        raise ConflictError(
            f"image {image.id} is not looked at again: that would forget what was said by hand, "
            + ", ".join(
                [f"{face.person!r} as face {face.index}" for face in named]
                + [f"not {name!r} as face {face.index}" for face in denied for name in face.denials]
                + [f"face {face.index} was drawn" for face in drawn]
                + [
                    f"face {place.index} is {'to stay forgotten' if place.forgotten else 'none'}"
                    for place in image.struck_out
                ]
            )
        )


def check_drawable(image: Image, box: Box) -> None:
    """Raise a ``RefusedError`` for a box that cannot be a face of an image's result."""
    if image.status != Status.PROCESSED:
        raise ConflictError(
            f"image {image.id} is {image.status}: a face is drawn once it is processed"
        )
    across, down = box.right - box.left, box.bottom - box.top
    if across < MIN_SIDE or down < MIN_SIDE:
        reason = (
            f"the box is {across} x {down} pixels: a face has at least {MIN_SIDE} on a side, left"
            " is less than right, and top less than bottom"
        )
        raise InvalidError(reason, [Fault("/box", reason)])
    if image.width and image.height and (box.right > image.width or box.bottom > image.height):
        reason = (
            f"the box reaches to ({box.right}, {box.bottom}), beyond the picture, which has"
            f" {image.width} x {image.height} pixels"
        )
        raise InvalidError(reason, [Fault("/box", reason)])
    check_free(image.id, box, {face.index: face.box for face in image.faces})
    check_room(image.id, len(image.faces) + len(image.struck_out))


def check_retriable(image_id: int, status: str) -> None:
    """Raise :class:`ConflictError` for a status that a person may not send back to pending."""
    if status not in RETRIABLE:
        raise ConflictError(
            f"image {image_id} is {status}; only rejected and dead images can be tried again"
        )
