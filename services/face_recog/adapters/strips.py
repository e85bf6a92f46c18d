"""A network whose first layers look at a picture strip by strip, which saves most of its memory.

Those layers work on a half and a quarter of the picture's size, where each of their many channels
takes most. What follows them is small.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.face_recog.adapters.onnx import Network, split

_ROWS: Final = 128
"""In a strip, of the picture: its first layers take no more memory then than those that follow."""

_CELL: Final = 4
"""A row of what the first layers answer stands for so many of the picture."""

_ABOVE: Final = 3 * _CELL
_BELOW: Final = 2 * _CELL
"""So many rows around a strip have a say in its answer: the first layers are convolutions of 3 x 3,
one with a step of 2, one of 1, one of 2 and one of 1."""


class StripedNetwork:
    """A model of the input 1 x 3 x height x width, each a multiple of 32.

    ``at`` is the value in which its first layers end; answers are those of :class:`Network`.
    """

    def __init__(self, model: bytes, at: str) -> None:
        self._first, self._rest = (Network(part) for part in split(model, at))

    def run(self, value: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the outputs for one input."""
        height = value.shape[2]
        strips = []
        for start in range(0, height, _ROWS):
            top = max(0, start - _ABOVE)
            [seen] = self._first.run(value[:, :, top : min(height, start + _ROWS + _BELOW)])
            above = (start - top) // _CELL
            strips.append(seen[:, :, above : above + _ROWS // _CELL])
        return self._rest.run(np.concatenate(strips, axis=2))
