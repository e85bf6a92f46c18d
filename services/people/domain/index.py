"""Stored faces in memory, searched one by one: exact."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.common.faces import MAX_NUMBERS
from services.people.domain.vector_table import VectorTable

_BLOCK: Final = 262_144
"""Faces at a time among which the nearest are looked for: 3 MB beside their products."""


class Found(NamedTuple):
    """A stored face, and how far it is from what was looked for, of length 1."""

    image_id: int
    face_index: int
    distance: float


class ExactIndex:
    """Encodings of length 1, of one engine, in a matrix: 512 bytes a face with 128 numbers.

    Its key takes 16 bytes more. An engine's encodings have one size. Where another one lies among
    them, by damage, it has a matrix of its own, so it does not matter which one comes first.

    One product with all of them takes 50 ms for a million. A change looks at the keys of all, which
    takes 20 ms for a million, so changes come in batches. Not for two threads at once.
    """

    def __init__(self) -> None:
        # Beside each encoding are its image and its index.
        self._by_size: dict[int, VectorTable] = {}

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
        """Return the images over ``low`` and up to ``high`` that have faces here, in order."""
        images = [table.numbers[:, 0] for table in self._by_size.values()]
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
            self._by_size[size] = VectorTable(size // 4, 2)
        for size, table in list(self._by_size.items()):
            table.free(np.flatnonzero(np.isin(table.numbers[:, 0], gone)))
            content = b"".join(encoding for _, _, encoding in by_size[size])
            vectors = np.frombuffer(content, "<f4").reshape(-1, size // 4)
            lengths = np.linalg.norm(vectors, axis=1)
            sound = np.isfinite(lengths) & (lengths > 0)
            keys = np.array([row[:2] for row in by_size[size]], np.int64).reshape(-1, 2)
            table.take(vectors[sound] / lengths[sound, None], keys[sound])
            if not len(table):
                del self._by_size[size]

    def nearer(
        self, mean: NDArray[np.float32], least: float
    ) -> tuple[NDArray[np.int64], Sequence[bytes]]:
        """Return the images and encodings of faces whose product with a mean is at least so."""
        if (table := self._by_size.get(mean.nbytes)) is None:
            return np.empty(0, np.int64), []
        images = table.numbers[:, 0]
        found = np.flatnonzero((table.vectors @ mean >= least) & (images >= 0))
        return images[found], [table.vectors[row].tobytes() for row in found]

    def nearest(self, encoding: NDArray[np.float32], most: int) -> Sequence[Found]:
        """Return so many faces at most, those nearest to an encoding, nearest first.

        It may have any length but 0. Of several that are as near as the last one any come.
        """
        if (table := self._by_size.get(encoding.nbytes)) is None:
            return []
        unit = encoding / np.linalg.norm(encoding)
        best, products = np.empty(0, np.intp), np.empty(0, np.float32)
        for start in range(0, len(table.vectors), _BLOCK):
            block = slice(start, start + _BLOCK)
            used = np.flatnonzero(table.numbers[block, 0] >= 0)
            best = np.append(best, start + used)
            products = np.append(products, (table.vectors[block] @ unit)[used])
            if len(best) > most:
                kept = np.argpartition(products, len(best) - most)[len(best) - most :]
                best, products = best[kept], products[kept]
        distances = np.linalg.norm(table.vectors[best] - unit, axis=1)
        images, indexes = table.numbers[best].T
        order = np.lexsort((indexes, images, distances))
        columns = (images[order], indexes[order], distances[order])
        return [Found(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
