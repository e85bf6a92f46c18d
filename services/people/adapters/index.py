"""Stored faces in memory, searched one by one: exact."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.common.faces import MAX_NUMBERS
from services.people.domain.searching import Found

_GROWTH: Final = 1.125
_FIRST_ROWS: Final = 64

_BLOCK: Final = 262_144
"""Faces at a time among which the nearest are looked for: 3 MB beside their products."""


class ExactIndex:
    """Encodings of length 1, of one engine, in a matrix: 512 bytes a face with 128 numbers.

    Its key takes 12 bytes more. An engine's encodings have one size. Where another one lies among
    them, by damage, it has a matrix of its own, so it does not matter which one comes first.

    One product with all of them takes 50 ms for a million. A change looks at the keys of all, which
    takes 20 ms for a million, so changes come in batches. Not for two threads at once.
    """

    def __init__(self) -> None:
        self._by_size: dict[int, _Matrix] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_size.values()))

    @property
    def size(self) -> int:
        """Return the bytes of an encoding, of most of them; 0 when there is none."""
        return max(self._by_size, key=lambda size: len(self._by_size[size]), default=0)

    def clear(self) -> None:
        """Forget all, because those of another engine follow."""
        self._by_size.clear()

    def images_between(self, low: int, high: int) -> NDArray[np.int64]:
        """Return the images over ``low`` and up to ``high`` that have faces here."""
        images = [matrix.images for matrix in self._by_size.values()]
        found = [its[(its > low) & (its <= high)] for its in images]
        return np.unique(np.concatenate([np.empty(0, np.int64), *found]))

    def replace(
        self, gone: Sequence[int] | NDArray[np.int64], rows: Sequence[tuple[int, int, bytes]]
    ) -> None:
        """Remove the faces of some images, and put in faces by image, index and encoding.

        What cannot be compared with anything is left out.
        """
        by_size = defaultdict[int, list[tuple[int, int, bytes]]](list)
        for row in rows:
            size = len(row[2])
            if not size % 4 and 0 < size <= 4 * MAX_NUMBERS:
                by_size[size].append(row)
        for size in by_size.keys() - self._by_size.keys():
            self._by_size[size] = _Matrix(size // 4)
        for size, matrix in list(self._by_size.items()):
            matrix.replace(gone, by_size[size])
            if not len(matrix):
                del self._by_size[size]

    def nearer(
        self, mean: NDArray[np.float32], least: float
    ) -> tuple[NDArray[np.int64], Sequence[bytes]]:
        """Return the images and encodings of faces whose product with a mean is at least so."""
        its = self._by_size.get(mean.nbytes)
        return its.nearer(mean, least) if its else (np.empty(0, np.int64), [])

    def nearest(self, encoding: NDArray[np.float32], most: int) -> Sequence[Found]:
        """Return the faces that are nearest to an encoding of any length but 0, nearest first.

        All of those at most, and of several that are as near as the last one any.
        """
        its = self._by_size.get(encoding.nbytes)
        return its.nearest(encoding, most) if its else []


class _Matrix:
    """Encodings of one size."""

    def __init__(self, numbers: int) -> None:
        self._rows = 0
        self._images = np.empty(0, np.int64)
        self._indexes = np.empty(0, np.int32)
        self._units = np.empty((0, numbers), np.float32)

    def __len__(self) -> int:
        return self._rows

    @property
    def images(self) -> NDArray[np.int64]:
        return self._images[: self._rows]

    def replace(
        self, gone: Sequence[int] | NDArray[np.int64], rows: Sequence[tuple[int, int, bytes]]
    ) -> None:
        units = np.frombuffer(b"".join(encoding for _, _, encoding in rows), "<f4").reshape(
            -1, self._units.shape[1]
        )
        lengths = np.linalg.norm(units, axis=1)
        sound = np.isfinite(lengths) & (lengths > 0)
        keys = np.array([row[:2] for row in rows], np.int64).reshape(-1, 2)[sound]
        units = units[sound] / lengths[sound, None]
        # New ones take the places of those that go; the last ones take what is left of these.
        holes = np.flatnonzero(np.isin(self.images, gone))
        taken = holes[: len(keys)]
        self._put(taken, keys[: len(taken)], units[: len(taken)])
        if len(keys) > len(taken):
            more = len(keys) - len(taken)
            self._make_room(self._rows + more)
            places = np.arange(self._rows, self._rows + more)
            self._rows += more
            self._put(places, keys[len(taken) :], units[len(taken) :])
        else:
            self._close(holes[len(taken) :])

    def _put(
        self, places: NDArray[np.intp], keys: NDArray[np.int64], units: NDArray[np.float32]
    ) -> None:
        if len(places):
            self._images[places], self._indexes[places] = keys.T
            self._units[places] = units

    def _close(self, holes: NDArray[np.intp]) -> None:
        left = self._rows - len(holes)
        inside = holes[holes < left]
        last = np.setdiff1d(np.arange(left, self._rows), holes)
        keys = np.stack([self._images[last], self._indexes[last]], axis=1)
        self._put(inside, keys, self._units[last])
        self._units[left : self._rows] = 0  # of who is forgotten nothing stays
        self._rows = left

    def _make_room(self, rows: int) -> None:
        if rows <= len(self._images):
            return
        room = max(rows, int(len(self._images) * _GROWTH), _FIRST_ROWS)
        # In place: the system moves the pages, and no second copy is needed.
        self._images.resize(room, refcheck=False)
        self._indexes.resize(room, refcheck=False)
        self._units.resize((room, self._units.shape[1]), refcheck=False)

    def nearer(
        self, mean: NDArray[np.float32], least: float
    ) -> tuple[NDArray[np.int64], Sequence[bytes]]:
        found = np.flatnonzero(self._units[: self._rows] @ mean >= least)
        return self._images[found], [self._units[row].tobytes() for row in found]

    def nearest(self, encoding: NDArray[np.float32], most: int) -> Sequence[Found]:
        unit = encoding / np.linalg.norm(encoding)
        best, products = np.empty(0, np.intp), np.empty(0, np.float32)
        for start in range(0, self._rows, _BLOCK):
            block = self._units[start : min(start + _BLOCK, self._rows)] @ unit
            best = np.append(best, np.arange(start, start + len(block)))
            products = np.append(products, block)
            if len(best) > most:
                kept = np.argpartition(products, len(best) - most)[len(best) - most :]
                best, products = best[kept], products[kept]
        distances = np.linalg.norm(self._units[best] - unit, axis=1)
        images, indexes = self._images[best], self._indexes[best]
        order = np.lexsort((indexes, images, distances))
        columns = (images[order], indexes[order], distances[order])
        return [Found(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
