"""Known people: who is nearest to a face, and how alike a face is to all pictures of each."""

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.common.faces import Likely
from services.common.object_keys import folder_of
from services.face_recog.domain.calibration import Rule
from services.face_recog.domain.faces import Encoding
from services.face_recog.domain.strangers import Strangers, Vectors

DEFAULT_TOLERANCE: Final = 0.6
"""The distance for which the model was trained: it tells people apart at 0.6."""

# Squared distances from float32 products are off by less than this; encodings have a length of
# about 1.4, so their rounding errors stay below 1e-5.
_ROUGH: Final = 1e-4

_SORTED_AT_ONCE: Final = 2000
"""Names that are sorted within a few milliseconds."""


def _sorted_in_turns(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Sort without keeping other threads from the interpreter until all of it is done."""
    turns = range(0, len(rows), _SORTED_AT_ONCE)
    return list(heapq.merge(*(sorted(rows[start : start + _SORTED_AT_ONCE]) for start in turns)))


class KnownPeople:
    """An immutable snapshot of the known people, by one engine.

    ``encodings`` maps ``folder/picture`` to a face's encoding; the folder's name is the person's,
    in whatever form of Unicode the file system gave it.
    """

    def __init__(self, encodings: Mapping[str, NDArray[np.floating]]) -> None:
        rows = _sorted_in_turns([(folder_of(name), name) for name in encodings])
        size = len(next(iter(encodings.values()), ()))
        matrix = np.empty((len(rows), size), dtype=np.float32)
        for row, (_, name) in enumerate(rows):
            matrix[row] = encodings[name]
        self._set(rows, matrix)

    def _set(self, rows: Sequence[tuple[str, str]], matrix: NDArray[np.float32]) -> None:
        """Take the person and name of each row of the matrix, sorted: neighbours are one's."""
        self._rows = rows
        firsts = [row for row in range(len(rows)) if row == 0 or rows[row - 1][0] != rows[row][0]]
        self._persons = [rows[row][0] for row in firsts]
        self._starts = np.array(firsts, dtype=np.intp)
        self._ends = np.array([*firsts[1:], len(rows)][: len(firsts)], dtype=np.intp)
        self._matrix = matrix
        self._norms = np.einsum("ij,ij->i", matrix, matrix)

    def changed(self, encodings: Mapping[str, NDArray[np.floating] | None]) -> "KnownPeople":
        """Return the snapshot after this one, with another encoding of a name, or none of it.

        For a few of very many people: the rest is copied as it is.
        """
        rows, matrix = list(self._rows), self._matrix
        gone = []
        for name in encodings:
            row = bisect_left(self._rows, (folder_of(name), name))
            if row < len(self._rows) and self._rows[row][1] == name:
                gone.append(row)
        for row in sorted(gone, reverse=True):
            del rows[row]
        new = sorted(
            (folder_of(name), name) for name, encoding in encodings.items() if encoding is not None
        )
        places = [bisect_left(rows, row) for row in new]
        for place, owned in reversed(list(zip(places, new, strict=True))):
            rows.insert(place, owned)
        if gone:
            matrix = np.delete(matrix, gone, axis=0)
        if new:
            added = np.array([encodings[name] for _, name in new], np.float32)
            matrix = np.insert(matrix, places, added, axis=0) if len(matrix) else added
        people = KnownPeople({})
        people._set(rows, matrix)
        return people

    @property
    def people(self) -> int:
        """How many people are known."""
        return len(self._persons)

    @property
    def pictures(self) -> int:
        """How many pictures of them there are."""
        return len(self._rows)

    @property
    def names(self) -> Sequence[str]:
        """The people's names, sorted."""
        return self._persons

    def means(self) -> Vectors:
        """Return the mean of each person's encodings of length 1, of shape (people, size)."""
        if not self._persons:
            return self._matrix
        # np.add.reduceat would keep other threads from the interpreter all the while.
        units, counts = self._units(slice(None)), self._ends - self._starts
        sums = np.take(units, self._starts, axis=0)
        for nth in range(1, counts.max()):
            more = np.flatnonzero(counts > nth)
            sums[more] += units[self._starts[more] + nth]
        return sums / counts.astype(np.float32)[:, None]

    def faces(self, most: int) -> Vectors:
        """Return a picture's encoding of each person, or of so many people from all of them.

        Scaled to length 1, of shape (people, size).
        """
        some = np.linspace(0, self.people - 1, min(self.people, most))
        return self._units(self._starts[some.astype(np.intp)])

    def _units(self, rows: "slice | NDArray[np.intp]") -> Vectors:
        units: Vectors = (
            self._matrix[rows] / np.sqrt(np.maximum(self._norms[rows], _ROUGH))[:, None]
        )
        return units

    def candidate(self, person: int, encoding: Encoding) -> Likely:
        """Return one of ``names`` with the nearest picture."""
        start, end = self._starts[person], self._ends[person]
        distances = np.linalg.norm(self._matrix[start:end] - encoding, axis=1)
        nearest = int(np.argmin(distances))
        return Likely(
            self._rows[start + nearest][1], self._persons[person], float(distances[nearest])
        )

    def nearest(self, encoding: Encoding, count: int) -> list[Likely]:
        """Return the ``count`` nearest people, nearest first, each with the nearest picture."""
        if not self._persons or count < 1:
            return []
        # |a - b|^2 = |a|^2 + |b|^2 - 2ab needs one pass over the matrix. It is rough, so what
        # it leaves is measured exactly.
        wanted = encoding.astype(np.float32)
        rough = self._norms - 2 * (self._matrix @ wanted) + wanted @ wanted
        best = np.minimum.reduceat(rough, self._starts)
        count = min(count, len(best))
        bound = np.partition(best, count - 1)[count - 1] + _ROUGH
        persons = np.flatnonzero(best <= bound).tolist()
        found = [self.candidate(person, encoding) for person in persons]
        return sorted(found, key=lambda candidate: (candidate.distance, candidate.folder))[:count]

    def rows(self, names: Iterable[str]) -> list[int]:
        """Return the places in ``names`` of those of these people who are known."""
        places = ((bisect_left(self._persons, name), name) for name in names)
        return [place for place, name in places if self._persons[place : place + 1] == [name]]

    def is_like(self, name: str, encoding: Encoding) -> bool | None:
        """Tell whether a person has a picture so near; None for somebody without any."""
        for person in self.rows([name]):
            return self.candidate(person, encoding).distance <= DEFAULT_TOLERANCE
        return None

    def unlike_others(self, names: Iterable[str]) -> dict[str, float]:
        """Return which of these pictures are like no other of their person, and how far they are.

        That is the distance to the nearest other, over ``DEFAULT_TOLERANCE``. A person's only
        picture is none of them, nor is a name that is not here.
        """
        found = {}
        for name in names:
            row = bisect_left(self._rows, (folder_of(name), name))
            if row == len(self._rows) or self._rows[row][1] != name:
                continue
            person = int(np.searchsorted(self._starts, row, side="right")) - 1
            start, end = self._starts[person], self._ends[person]
            distances = np.linalg.norm(self._matrix[start:end] - self._matrix[row], axis=1)
            nearest = np.delete(distances, row - start).min(initial=np.inf)
            if DEFAULT_TOLERANCE < nearest < np.inf:
                found[name] = float(nearest)
        return found


class Portraits:
    """Known people, each described by all their pictures, and how they stand among strangers.

    ``before`` are older ones: whoever has not changed since is not measured again.
    """

    def __init__(
        self, people: KnownPeople, strangers: Strangers, before: "Portraits | None" = None
    ) -> None:
        self.people = people
        self.strangers = strangers
        self._means = people.means()
        self._standing = np.empty((2, people.people), np.float32)
        rows = np.full(people.people, -1)
        if before and before.strangers is strangers and before.people.people and people.people:
            known = {name: row for row, name in enumerate(before.people.names)}
            rows = np.array([known.get(name, -1) for name in people.names], dtype=np.intp)
            same = rows >= 0
            same[same] = (before._means[rows[same]] == self._means[same]).all(axis=1)  # noqa: SLF001
            rows[~same] = -1
            self._standing[:, same] = before._standing[:, rows[same]]  # noqa: SLF001
        changed = rows < 0
        self._standing[:, changed] = strangers.standing(self._means[changed])

    def likenesses(self, encodings: Sequence[Encoding]) -> Vectors:
        """Return how alike faces are to each of ``people.names``, of shape (faces, people)."""
        if not (self.people.people and len(encodings)):
            return np.empty((len(encodings), self.people.people), np.float32)  # of no size
        mean, spread = self._standing
        return self.strangers.likenesses(_units(encodings), self._means, (mean, spread))

    def portrait(self, name: str, rule: Rule) -> "Portrait | None":
        """Return what tells who may be this person by the rule; None for somebody unknown."""
        found = self.people.rows([name])
        if not found:
            return None
        [person] = found
        mean, spread = self._standing[:, person : person + 1]
        return Portrait(
            self._means[person],
            self.strangers.least_product(rule.unsure, (float(mean[0]), float(spread[0]))),
            (mean, spread),
        )

    def may_be(
        self, portrait: "Portrait", encodings: Sequence[Encoding], rule: Rule
    ) -> Sequence[bool]:
        """Tell of each face whether it would be asked about, were there nobody else."""
        alike = self.strangers.likenesses(_units(encodings), portrait.mean[None], portrait.standing)
        return [bool(likeness) for likeness in alike[:, 0] >= rule.unsure]


def _units(encodings: Sequence[Encoding]) -> Vectors:
    faces = np.asarray(encodings)
    units: Vectors = (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float32)
    return units


@dataclass(frozen=True, eq=False)
class Portrait:
    """One person's mean, of shape (size,), and how it stands among strangers.

    Hardly any face of length 1 whose product with the mean is under ``least_product`` may be them.
    """

    mean: Vectors
    least_product: float
    standing: tuple[Vectors, Vectors]
