"""A network whose first layers look at a picture strip by strip, which saves most of its memory.

Those layers work on a half, a quarter and an eighth of the picture's size, where each of their many
channels takes most. What follows them is small.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.face_recog.adapters.onnx import Network, split

_ROWS: Final = 128
"""In a strip, of the picture."""

_CELLS: Final = (4, 8)
"""A row of each value that the first layers answer stands for so many of the picture."""

_ABOVE: Final = 16
_BELOW: Final = 8
"""So many rows around a strip have a say in its answer: the first layers are convolutions of 3 x 3,
with steps of 2, 1, 2, 1 and 2. A strip begins with a whole cell."""


class StripedNetwork:
    """A model of the input 1 x 3 x height x width, each a multiple of 32.

    ``at`` are the values in which its first layers end, as many as there are sizes of cells;
    answers are those of :class:`Network`.
    """

    def __init__(self, model: bytes, at: Sequence[str]) -> None:
        self._first, self._rest = (Network(part) for part in split(model, at))

    def run(self, value: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the outputs for one input."""
        height = value.shape[2]
        strips = []
        for start in range(0, height, _ROWS):
            top = max(0, start - _ABOVE)
            seen = self._first.run(value[:, :, top : min(height, start + _ROWS + _BELOW)])
            strips.append(
                [
                    one[:, :, (start - top) // cell :][:, :, : _ROWS // cell]
                    for one, cell in zip(seen, _CELLS, strict=True)
                ]
            )
        return self._rest.run(*(np.concatenate(one, axis=2) for one in zip(*strips, strict=True)))
