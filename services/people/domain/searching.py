"""What comes of looking for stored faces."""

from typing import NamedTuple


class Found(NamedTuple):
    """A stored face, and how far it is from what was looked for, of length 1."""

    image_id: int
    face_index: int
    distance: float
