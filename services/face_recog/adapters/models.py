"""What an engine is made of: the one interface behind which faces are found and encoded."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile

from services.face_recog.domain.engines import Engine, EngineChoice
from services.face_recog.domain.faces import Encoding

Pixels = NDArray[np.uint8]
"""Shape (height, width, 3), RGB."""

Place = Sequence[float]
"""Where a face is, as its engine wants it to cut it out."""

Rectangle = tuple[float, float, float, float]
"""Left, top, right and bottom, in the searched pixels; it may reach beyond them."""

Points = tuple[complex, complex, complex]
"""Both eyes and the nose, in the searched pixels or in what was cut out and turned of them: across
is the real part, down the imaginary."""


@dataclass(frozen=True)
class Detection:
    """A face in the searched pixels: its rectangle, score and place.

    ``quarters`` is how many quarter turns against the clock make it stand upright.
    """

    rectangle: Rectangle
    score: float
    place: Place
    quarters: int = 0


class Models(Protocol):
    """The loaded models of an engine; not to be used by two threads at a time."""

    @property
    def engine(self) -> Engine:
        """What their encodings are kept and answered under."""

    @property
    def side(self) -> int:
        """Pixels on a side of what :meth:`chip` returns."""

    def scale(self, pixels: int) -> float:
        """Return at which scale a picture of so many pixels is searched."""

    def detect(self, pixels: Pixels, scale: float) -> list[Detection]:
        """Find the faces in the pixels at this scale, in parts where they are many."""

    def lay(self, pixels: Pixels, rectangle: Rectangle) -> Detection:
        """Return the face in a rectangle in which :meth:`detect` found none.

        It is looked for there more closely; else its score is 0, and its place that of a face that
        fills the rectangle.
        """

    def chip(self, pixels: Pixels, place: Place) -> tuple[Pixels, Points]:
        """Cut out and straighten the face at a place that was given for these pixels.

        Returns it, and where its eyes and nose are.
        """

    def encode(self, chip: Pixels) -> Encoding:
        """Encode a face, shape (side, side, 3)."""


@functools.cache
def load_models(choice: EngineChoice) -> Models:
    """Load an engine's models, once in a process; raise ``OSError`` when a file is not there.

    The message is for people, and so it is when the file is not what it should be.
    """
    # Some packages switch this on for the whole process; what is missing must be noticed.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    # Imported here, so that an engine takes no memory for what another is made of.
    if choice == "classic":
        from services.face_recog.adapters.classic import Classic  # noqa: PLC0415

        return Classic()
    if choice == "centerface":
        from services.face_recog.adapters.centerface import CenterFaceDlib  # noqa: PLC0415

        return CenterFaceDlib()
    from services.face_recog.adapters.embedder import CenterFaceEmbedder  # noqa: PLC0415

    return CenterFaceEmbedder(choice)
