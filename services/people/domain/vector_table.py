"""Vectors in the rows of a matrix that grows."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Vectors: TypeAlias = NDArray[np.float32]
Rows: TypeAlias = NDArray[np.intp]


class VectorTable:
    """Vectors in rows, and a number beside each, or several; free rows hold zeros and -1.

    What is read of it is valid until the next ``take``.
    """

    def __init__(self, width: int, *beside: int) -> None:
        self._vectors = np.zeros((0, width), np.float32)
        self._numbers = np.zeros((0, *beside), np.int64)
        self._end = 0
        self._free: list[int] = []

    def __len__(self) -> int:
        return self._end - len(self._free)

    @property
    def vectors(self) -> Vectors:
        """Those of all rows that ever were in use."""
        return self._vectors[: self._end]

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Those beside :attr:`vectors`."""
        return self._numbers[: self._end]

    def take(self, vectors: Vectors, numbers: NDArray[np.int64]) -> Rows:
        """Put them into free rows, which are returned."""
        again = [self._free.pop() for _ in range(min(len(numbers), len(self._free)))]
        start, self._end = self._end, self._end + len(numbers) - len(again)
        if self._end > len(self._numbers):
            room = max(self._end, len(self._numbers) * 9 // 8)
            # In place: the system moves the pages, and no second copy is needed.
            for table in (self._vectors, self._numbers):
                table.resize((room, *table.shape[1:]), refcheck=False)
        rows = np.array([*again, *range(start, self._end)], np.intp)
        self._vectors[rows], self._numbers[rows] = vectors, numbers
        return rows

    def free(self, rows: Rows) -> None:
        """Forget what is in these rows."""
        self._vectors[rows], self._numbers[rows] = 0, -1
        self._free += rows.tolist()
