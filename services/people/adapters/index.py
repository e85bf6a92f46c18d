"""Stored faces in memory, searched one by one: exact."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_GROWTH: Final = 1.125
_FIRST_ROWS: Final = 4096


class ExactIndex:
    """Encodings of length 1, of one engine, in one matrix: 512 bytes a face with 128 numbers.

    One product with all of them takes 50 ms for a million. A change looks at the keys of all, which
    takes 20 ms for a million, so changes come in batches. Not for two threads at once.
    """

    def __init__(self) -> None:
        self._size = 0
        self._rows = 0
        self._images = np.empty(0, np.int64)
        self._units = np.empty((0, 0), np.float32)

    def __len__(self) -> int:
        return self._rows

    @property
    def size(self) -> int:
        """Return the bytes of an encoding; 0 when there was none yet."""
        return self._size

    def clear(self) -> None:
        """Forget all, because those of another engine follow."""
        self.__init__()  # type: ignore[misc]

    def images_between(self, low: int, high: int) -> NDArray[np.int64]:
        """Return the images over ``low`` and up to ``high`` that have faces here."""
        images = self._images[: self._rows]
        return np.unique(images[(images > low) & (images <= high)])

    def replace(
        self, gone: Sequence[int] | NDArray[np.int64], rows: Sequence[tuple[int, bytes]]
    ) -> None:
        """Remove the faces of some images, and put in faces by their image and encoding.

        What has another size than most of the first ones is left out.
        """
        sizes = Counter(len(one) for _, one in rows if one and not len(one) % 4)
        size = self._size or max(sizes, key=sizes.__getitem__, default=0)
        fitting = [row for row in rows if len(row[1]) == size]
        units = np.frombuffer(b"".join(one for _, one in fitting), "<f4").reshape(
            -1, size // 4 or 1
        )
        lengths = np.linalg.norm(units, axis=1)
        sound = np.isfinite(lengths) & (lengths > 0)
        images = np.fromiter((image for image, _ in fitting), np.int64, len(fitting))[sound]
        units = units[sound] / lengths[sound, None]
        self._size = size
        # New ones take the places of those that go; the last ones take what is left of these.
        holes = np.flatnonzero(np.isin(self._images[: self._rows], gone))
        taken = holes[: len(images)]
        self._put(taken, images[: len(taken)], units[: len(taken)])
        if len(images) > len(taken):
            more = len(images) - len(taken)
            self._make_room(self._rows + more)
            places = np.arange(self._rows, self._rows + more)
            self._rows += more
            self._put(places, images[len(taken) :], units[len(taken) :])
        else:
            self._close(holes[len(taken) :])

    def _put(
        self, places: NDArray[np.intp], images: NDArray[np.int64], units: NDArray[np.float32]
    ) -> None:
        if len(places):
            self._images[places] = images
            self._units[places] = units

    def _close(self, holes: NDArray[np.intp]) -> None:
        left = self._rows - len(holes)
        inside = holes[holes < left]
        last = np.setdiff1d(np.arange(left, self._rows), holes)
        self._put(inside, self._images[last], self._units[last])
        self._rows = left

    def _make_room(self, rows: int) -> None:
        if rows <= len(self._images):
            return
        room = max(rows, int(len(self._images) * _GROWTH), _FIRST_ROWS)
        # In place: the system moves the pages, and no second copy is needed.
        self._images.resize(room, refcheck=False)
        if not self._units.size:
            self._units = np.empty((room, self._size // 4), np.float32)
        else:
            self._units.resize((room, self._size // 4), refcheck=False)

    def nearer(
        self, mean: NDArray[np.float32], least: float
    ) -> tuple[NDArray[np.int64], Sequence[bytes]]:
        """Return the images and encodings of faces whose product with a mean is at least so."""
        if self._size != mean.nbytes:
            return np.empty(0, np.int64), []
        found = np.flatnonzero(self._units[: self._rows] @ mean >= least)
        return self._images[found], [self._units[row].tobytes() for row in found]
