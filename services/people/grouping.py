"""Groups of faces that nobody has named, each of one person as far as the encodings tell.

Two faces are as alike as the product of their encodings stands out from the products that each of
them has with faces of others. Two groups are as alike as their faces are on average, over all pairs
(average linkage), and more so the more faces they have, since strangers are less alike on average.
The most alike are joined first, while they are more alike than strangers are.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.common.strangers import PairsOfStrangers

COHORTS: Final = (250, 500, 1000)
"""Numbers of groups at which a face of each of them becomes what likenesses are held against. The
fewer, the rougher likenesses are; the more, the longer each face takes."""

_FEW: Final = 1000
"""Up to so many groups, and from a cohort of so many on, the same likeness joins two."""

_RIDGE: Final = 40.0
"""So many mean variances are added to the variance of each direction, over the faces that a cohort
has for each number of an encoding: 5 with 1,000 of dlib's. Without, directions in which few faces
were seen would count for too much. With dlib's as they are, 1 of 7 pairs less is found."""

_NEAREST: Final = (0.01, 0.35)
"""The shares of a cohort, those most alike, between which it is held against. The first ones may be
the face itself, or its person's other pictures."""

_LASTING: Final = 0.9
"""What is left of the squared length of a mean of very many faces of length 1.

One person's whitened faces have products of 0.6 to 0.7, and means of three strangers' faces are
less alike than single ones by as much as that makes of their lengths. But a group may hold a
stranger, of whom 0.7 makes too much: where 1 % are wrong, 1 to 4 % fewer of one person's pairs are
found by dlib's encodings than with plain means; with 0.9, 1 to 3 % more by any."""

_BLOCK: Final = 256
"""Faces at a time that are compared with all groups."""

_ROWS: Final = 16384
"""Groups at a time that they are compared with: the products take 16 MB."""

_ASKED: Final = 2.0
"""Decades below what joins two groups from which a person may be asked about them."""

_LARGEST: Final = 500
"""Groups about which a person may be asked."""

_PEOPLE: Final = 10
"""Known people that each of those is held against: the nearest by the product alone."""

Vectors = NDArray[np.float32]
Rows = NDArray[np.intp]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Demand:
    """The likeness from which two groups are joined, and how much more the next ``decade`` asks.

    A tenth as many pairs of strangers are more alike by that.
    """

    likeness: float
    decade: float


@dataclass(frozen=True)
class Kind:
    """What is asked of an engine's encodings: of bare products, and of how far they stand out."""

    product: Demand
    standing: Demand


_OF_DLIB: Final = Demand(6.3, 1.07)
"""How far dlib's encodings are to stand out, whoever finds the faces, from Labeled Faces in the
Wild: of the pairs joined from there on, 1 to 2 % are wrong, of 1,764 faces of 1,000 people; 0.1
more and 1 to 2 % fewer of the right ones are found."""

_OF_OTHERS: Final = Demand(8.1, 1.5)
"""Those of any other model: measured with the one that tests bring, so that 1 % are wrong."""


def kind_of(engine: str, strangers: PairsOfStrangers) -> Kind:
    """Return what to ask of an engine's encodings, by its name and what face_recog says of it.

    The product is what one pair of strangers in 10,000 reaches.
    """
    standing = _OF_DLIB if "dlib" in engine else _OF_OTHERS
    return Kind(Demand(strangers.product, strangers.decade), standing)


@dataclass(frozen=True)
class Changes(Generic[Key]):
    """What a call has changed.

    ``placed`` has the group of each face that it was about, None for one that is in none;
    ``merged`` says of groups of before the call that are gone in which one their faces are.
    """

    placed: Mapping[Key, int | None]
    merged: Mapping[int, int]


@dataclass(frozen=True)
class Suggestion:
    """A group and another, or a known person, who may be the same: a person is to say."""

    group: int
    other: int
    is_person: bool
    likeness: float


class _Likeness:
    """How alike faces are: the product of a vector of one and the :func:`_turned` one of another.

    Such a vector is the whitened face over the square root of the spread of its products with the
    cohort, and two numbers more, by which the product of two is that of their faces, less the mean
    of what either has with the cohort, in spreads (adaptive symmetric score normalisation). As it
    is a product, the means of faces' vectors give the mean of their likenesses.
    """

    def __init__(self, kind: Kind, cohort: Vectors, rows: Rows) -> None:
        """Fit it to faces of length 1, which are in those ``rows``; to none, products count."""
        self._cohort, self._rows, self._enough = cohort, rows, len(rows) / 2
        self.demand = kind.standing if len(rows) else kind.product
        if not len(rows):
            return
        self._centre = cohort.mean(axis=0)
        variances, axes = np.linalg.eigh(np.cov(cohort.T.astype(np.float64)))
        ridge = _RIDGE * cohort.shape[1] / len(cohort) * variances.mean()
        self._axes = (axes / np.sqrt(np.maximum(variances, 0) + ridge + _TINY)).astype(np.float32)
        self._cohort = self.white(cohort)

    @property
    def faces(self) -> int:
        """How many faces likenesses are held against."""
        return len(self._rows)

    @property
    def is_worn(self) -> bool:
        """Whether more than half of them were dropped."""
        return self.faces < self._enough

    def drop(self, rows: Rows) -> None:
        """Forget the faces of these rows."""
        kept = ~np.isin(self._rows, rows)
        self._cohort, self._rows = self._cohort[kept], self._rows[kept]

    def white(self, faces: Vectors) -> Vectors:
        """Return faces of length 1 in which what all faces vary by counts for less."""
        return _units((faces - self._centre) @ self._axes) if self.faces else faces

    def vectors(self, faces: Vectors) -> Vectors:
        """Return what faces of length 1 are compared by; shape (faces, size + 2)."""
        made = np.zeros((len(faces), faces.shape[1] + 2), np.float32)
        made[:, :-2], made[:, -2] = self.white(faces), 1
        if not self.faces:
            return made
        last, first = (self.faces - 1 - round(share * self.faces) for share in _NEAREST)
        for start in range(0, len(faces), _BLOCK):
            rows = made[start : start + _BLOCK]
            products = rows[:, :-2] @ self._cohort.T
            products.partition([max(0, first), last], axis=1)
            nearest = products[:, max(0, first) : max(1, last)]
            rows /= np.sqrt(np.maximum(nearest.std(axis=1), _LEAST_SPREAD))[:, None]
            rows[:, -1] = rows[:, -2] * nearest.mean(axis=1)
        return made

    @property
    def lasting(self) -> float:
        """What is left of the squared length of a mean of very many; of products as they are, 1."""
        return _LASTING if self.faces else 1

    def lengths(self, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how long the sums of so many faces' vectors are taken to be, in those of a face.

        Divided by it they are as long as one face's, so that the likeness of two groups counts for
        as much as that of two faces: the more faces, the less alike are the means of strangers.
        """
        lengths: NDArray[np.float64] = np.sqrt(self.lasting * sizes**2 + (1 - self.lasting) * sizes)
        return lengths

    def needed(self, groups: int) -> float:
        """Return the likeness from which two of so many groups are joined.

        There are more strangers among more groups. A small cohort is rough: one of a hundredth asks
        for a decade more.
        """
        more = math.log10(max(groups, _FEW) / _FEW)
        rough = math.log10(_FEW / min(self.faces or _FEW, _FEW)) / 2
        return self.demand.likeness + self.demand.decade * (more + rough)


_TINY: Final = 1e-12
_LEAST_SPREAD: Final = 1e-3


def _turned(vectors: Vectors) -> Vectors:
    turned = vectors.copy()
    turned[..., -2:] = vectors[..., [-1, -2]] * np.float32(-0.5)
    return turned


def _units(vectors: NDArray[np.floating]) -> Vectors:
    """Return them scaled to length 1, those of no length as they are."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    units: Vectors = (vectors / np.where(lengths > _TINY, lengths, 1)[:, None]).astype(np.float32)
    return units


class _Table:
    """Vectors in rows, and a number beside each; free rows hold zeros and -1."""

    def __init__(self, width: int) -> None:
        self._vectors = np.zeros((0, width), np.float32)
        self._numbers = np.zeros(0, np.int64)
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
            more = max(self._end - len(self._numbers), len(self._numbers) // 8)
            free = np.zeros((more, self._vectors.shape[1]), np.float32)
            self._vectors = np.concatenate([self._vectors, free])
            self._numbers = np.concatenate([self._numbers, np.full(more, -1)])
        rows = np.array([*again, *range(start, self._end)], np.intp)
        self._vectors[rows], self._numbers[rows] = vectors, numbers
        return rows

    def free(self, rows: Rows) -> None:
        """Forget what is in these rows."""
        self._vectors[rows], self._numbers[rows] = 0, -1
        self._free += rows.tolist()


class Groups(Generic[Key]):
    """Faces by key, and the groups that they are in: each in one, if it can be compared at all.

    A group keeps its id, over 0, while it grows. Groups are joined and never divided; of two, the
    id of the larger stays, and the older at a tie. The same calls make the same groups.
    """

    def __init__(self, size: int, kind: Kind, *, next_id: int = 1) -> None:
        self._size = size
        self._kind = kind
        # Faces have the row of their group beside them, groups the number of their faces.
        self._faces = _Table(size)
        self._groups = _Table(size + 2)
        self._ids = np.zeros(0, np.int64)
        self._keys: dict[int, Key] = {}
        self._rows: dict[Key, int] = {}
        # By the row of a group, the rows of faces that are not to be in it.
        self._barred: defaultdict[int, set[int]] = defaultdict(set)
        self._fit(0)
        # Of a call: the first id that nobody has seen before it, and what is gone since.
        self._next_id = self._first_new = next_id
        self._merged: dict[int, int] = {}

    @classmethod
    def restore(
        cls,
        kind: Kind,
        keys: Sequence[Key],
        encodings: NDArray[np.floating],
        ids: Sequence[int],
        *,
        barred: Iterable[tuple[Key, int]] = (),
        next_id: int = 1,
    ) -> "Groups[Key]":
        """Return groups of faces that were in those of these ids, without joining any.

        Encodings have the shape (faces, size). Ids of new groups are ``next_id`` or more, and above
        those given. Faces that cannot be compared are left out, and so is what is barred of a face
        or group that is not there.
        """
        found = cls(encodings.shape[1], kind, next_id=max([next_id, *(one + 1 for one in ids)]))
        usable, faces = found._comparable(keys, encodings)
        found._ids, places = np.unique(np.array(ids, np.int64)[usable], return_inverse=True)
        slots = found._groups.take(
            np.zeros((len(found._ids), found._size + 2), np.float32), np.bincount(places)
        )
        found._take([keys[one] for one in usable], faces, slots[places])
        by_id = dict(zip(found._ids.tolist(), slots.tolist(), strict=True))
        for key, group in barred:
            if key in found._rows and group in by_id:
                found._barred[by_id[group]].add(found._rows[key])
        found._fit(found._enough())
        return found

    def __len__(self) -> int:
        return len(self._faces)

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    @property
    def size(self) -> int:
        """Return how many numbers an encoding has."""
        return self._size

    @property
    def number(self) -> int:
        """Return how many groups there are."""
        return len(self._groups)

    def group_of(self, key: Key) -> int | None:
        """Return the group that a face is in; None for one that is in none, or not here."""
        row = self._rows.get(key)
        return None if row is None else int(self._ids[self._faces.numbers[row]])

    def members(self, group: int) -> list[Key]:
        """Return the faces of a group, none of one that is not there."""
        return [self._keys[row] for row in self._members(self._slots([group])).tolist()]

    def add(
        self,
        keys: Sequence[Key],
        encodings: NDArray[np.floating],
        *,
        apart: Iterable[tuple[Collection[Key], Collection[Key]]] = (),
    ) -> Changes[Key]:
        """Put new faces into groups; encodings have the shape (faces, size).

        Of faces that are to be ``apart``, none of the one part is put together with one of the
        other, now or later; those that are not here do not count. A face without length, or with
        what is no number, comes into no group. Raises ValueError when the shape is another, or a
        key is there already or stands twice: then nothing has changed.
        """
        usable, faces = self._comparable(keys, encodings)
        self._begin()
        for start in range(0, len(usable), _BLOCK):
            some = slice(start, start + _BLOCK)
            alone = self._open(len(faces[some]))
            self._take([keys[one] for one in usable[some]], faces[some], alone)
            self._describe(alone)
            self._set_apart(apart)
            self._join(alone)
            self._keep_up()
        return self._changes(keys)

    def remove(self, keys: Iterable[Key]) -> Changes[Key]:
        """Forget faces, those that are here: nothing that was made of one alone is left."""
        gone = [key for key in dict.fromkeys(keys) if key in self._rows]
        self._begin()
        rows = np.array([self._rows.pop(key) for key in gone], np.intp)
        slots = np.unique(self._faces.numbers[rows])
        for row in rows.tolist():
            del self._keys[row]
        for barred in self._barred.values():
            barred.difference_update(rows.tolist())
        self._faces.free(rows)
        self._likeness.drop(rows)
        self._describe(slots)
        if self._likeness.is_worn:
            self._fit(self._enough())
        return self._changes(gone)

    def bar(self, keys: Collection[Key], group: int) -> Changes[Key]:
        """Say that faces are not to be in a group, and strike out those that are.

        It is joined with no group that has one of them, as long as both are here. Raises ValueError
        when a face or the group is not: then nothing has changed.
        """
        slots = self._slots([group])
        if not slots.size:
            raise ValueError(f"there is no group {group}: it is gone, or was merged with another")
        if strange := [key for key in keys if key not in self._rows]:
            raise ValueError(f"there is no face {strange[0]!r} in any group")
        self._begin()
        rows = np.array([self._rows[key] for key in dict.fromkeys(keys)], np.intp)
        self._barred[int(slots[0])].update(rows.tolist())
        self._strike(rows, slots)
        return self._changes(keys)

    def _set_apart(self, apart: Iterable[tuple[Collection[Key], Collection[Key]]]) -> None:
        for faces, others in apart:
            rows = {self._rows[key] for key in faces if key in self._rows}
            theirs = [self._rows[key] for key in others if key in self._rows]
            for slot in set(self._faces.numbers[theirs].tolist()):
                self._barred[slot] |= rows

    def _strike(self, rows: Rows, slots: Rows) -> None:
        """Take those of these faces that are in a group out of it."""
        struck = rows[self._faces.numbers[rows] == slots[0]]
        alone = self._open(len(struck))
        self._faces.numbers[struck] = alone
        self._describe(np.concatenate([slots, alone]))
        self._join(alone)

    def join(self, group: int, other: int) -> Changes[Key]:
        """Make one of two groups, as a person says, however alike they are.

        But for faces that are barred from one of them. Raises ValueError when one is not there, or
        both are the same: then nothing has changed.
        """
        slots = self._slots([group, other])
        if len(slots) != len((group, other)):
            raise ValueError(f"{group} and {other} are not two groups: one is gone, or was merged")
        self._begin()
        kept, gone = sorted(slots.tolist(), key=self._rank)
        keys = [self._keys[row] for row in self._members(slots).tolist()]
        self._merge(kept, gone)
        self._faces.numbers[self._faces.numbers == gone] = kept
        self._groups.free(np.array([gone], np.intp))
        barred = np.array(sorted(self._barred.get(kept, ())), np.intp)
        self._strike(barred, np.array([kept], np.intp))
        return self._changes(keys)

    def suggestions(
        self,
        limit: int,
        people: Mapping[int, NDArray[np.floating]] | None = None,
        *,
        without: Collection[tuple[int, int, bool]] = (),
    ) -> list[Suggestion]:
        """Return at most so many pairs that may be one, the most alike first.

        One of each is among the ``_LARGEST`` groups; the other is a group, or one of ``people``, by
        id with a mean of their encodings. Left out are what is barred, and those ``without``:
        group, other and whether that is a person, of two groups the older first.
        """
        largest = np.argsort(-self._groups.numbers, kind="stable")[:_LARGEST]
        largest = largest[self._groups.numbers[largest] > 0]
        asked = self._needed() - _ASKED * self._likeness.demand.decade
        # So many of the best may have to be left out.
        most = limit + len(without) + sum(map(len, self._barred.values()))
        found: dict[tuple[int, int, bool], float] = {}
        for first, second, likeness in self._alike(largest, asked):
            best = np.argsort(-likeness, kind="stable")[: 2 * most]
            for a, b, one in zip(first[best], second[best], likeness[best], strict=True):
                if not self._are_apart(int(a), int(b), {}):
                    older, newer = sorted((int(self._ids[a]), int(self._ids[b])))
                    found[older, newer, False] = float(one)
        if people:
            found |= self._like_people(largest, people, asked)
        likely = sorted(found.keys() - set(without), key=lambda pair: (-found[pair], pair))
        return [Suggestion(*pair, found[pair]) for pair in likely[:limit]]

    def _like_people(
        self, slots: Rows, people: Mapping[int, NDArray[np.floating]], asked: float
    ) -> dict[tuple[int, int, bool], float]:
        ids = list(people)
        known = _units(np.array([people[one] for one in ids], np.float64))
        means = self._groups.vectors[slots]
        products = means[:, :-2] @ self._likeness.white(known).T
        near = np.argsort(-products, axis=1, kind="stable")[:, :_PEOPLE]
        chosen, places = np.unique(near, return_inverse=True)
        vectors = _turned(self._likeness.vectors(known[chosen]))[places.reshape(near.shape)]
        likeness = np.einsum("gw,gpw->gp", means, vectors)
        return {
            (int(self._ids[slots[row]]), ids[near[row, place]], True): float(likeness[row, place])
            for row, place in np.argwhere(likeness >= asked)
        }

    def _comparable(
        self, keys: Sequence[Key], encodings: NDArray[np.floating]
    ) -> tuple[list[int], Vectors]:
        """Return which of these new faces can be compared, and them, of length 1."""
        if encodings.shape != (len(keys), self._size):
            raise ValueError(
                f"encodings of {len(keys)} faces have the shape {encodings.shape},"
                f" not {(len(keys), self._size)}"
            )
        if len(set(keys)) < len(keys):
            raise ValueError("a face stands twice among those to add")
        if there := [key for key in keys if key in self._rows]:
            raise ValueError(f"the face {there[0]!r} is there already")
        faces = np.zeros(encodings.shape, np.float32)
        usable = np.zeros(len(keys), bool)
        for start in range(0, len(keys), _ROWS):
            some = slice(start, start + _ROWS)
            exact = encodings[some].astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                lengths = np.linalg.norm(exact, axis=1)
            usable[some] = np.isfinite(lengths) & (lengths > _TINY)
            faces[some][usable[some]] = _units(exact[usable[some]])
        return np.flatnonzero(usable).tolist(), faces if usable.all() else faces[usable]

    def _take(self, keys: Sequence[Key], faces: Vectors, slots: Rows) -> None:
        rows = self._faces.take(faces, slots).tolist()
        self._keys |= zip(rows, keys, strict=True)
        self._rows |= zip(keys, rows, strict=True)

    def _open(self, count: int) -> Rows:
        """Return rows of new groups."""
        slots = self._groups.take(
            np.zeros((count, self._size + 2), np.float32), np.zeros(count, np.int64)
        )
        missing = len(self._groups.numbers) - len(self._ids)
        self._ids = np.concatenate([self._ids, np.zeros(missing, np.int64)])
        self._ids[slots] = range(self._next_id, self._next_id + count)
        self._next_id += count
        return slots

    def _slots(self, ids: Sequence[int]) -> Rows:
        return np.flatnonzero(np.isin(self._ids, ids) & (self._groups.numbers > 0))

    def _members(self, slots: Rows) -> Rows:
        return np.flatnonzero(np.isin(self._faces.numbers, slots))

    def _describe(self, slots: Rows) -> None:
        """Find size and mean of groups anew; those without faces are gone."""
        rows = self._members(slots)
        sizes = np.bincount(self._faces.numbers[rows], minlength=len(self._groups.numbers))
        self._groups.numbers[slots], self._groups.vectors[slots] = sizes[slots], 0
        for start in range(0, len(rows), _ROWS):
            some = rows[start : start + _ROWS]
            places = self._faces.numbers[some]
            vectors = self._likeness.vectors(self._faces.vectors[some])
            vectors /= self._likeness.lengths(sizes[places])[:, None]
            np.add.at(self._groups.vectors, places, vectors)
        empty = slots[sizes[slots] == 0]
        self._groups.free(empty)
        for slot in empty.tolist():
            self._barred.pop(slot, None)

    def _enough(self) -> int:
        """Return the number of groups that a cohort is made of now, 0 when there are too few."""
        return max((number for number in COHORTS if number <= len(self._groups)), default=0)

    def _fit(self, number: int) -> None:
        """Hold likenesses against a face of each of the oldest groups."""
        self._fitted = number
        slots = np.flatnonzero(self._groups.numbers > 0)
        oldest = slots[np.argsort(self._ids[slots], kind="stable")[:number]]
        found, firsts = np.unique(self._faces.numbers, return_index=True)
        rows = firsts[np.searchsorted(found, oldest)]
        self._likeness = _Likeness(self._kind, self._faces.vectors[rows], rows)
        self._describe(slots)

    def _keep_up(self) -> None:
        """Hold likenesses against more faces, and join by that, when there are more groups."""
        number = self._enough()
        if number > self._fitted:
            self._fit(number)
            self._join(np.flatnonzero(self._groups.numbers > 0))

    def _needed(self) -> float:
        return self._likeness.needed(len(self._groups))

    def _alike(self, slots: Rows, least: float) -> Iterator[tuple[Rows, Rows, Vectors]]:
        """Yield pairs of one of these groups and any other that are so alike, each once."""
        chosen = np.zeros(len(self._groups.numbers), bool)
        chosen[slots] = True
        for start in range(0, len(slots), _BLOCK):
            some = slots[start : start + _BLOCK]
            turned = _turned(self._groups.vectors[some])
            for left in range(0, len(chosen), _ROWS):
                likeness = turned @ self._groups.vectors[left : left + _ROWS].T
                rows, columns = np.nonzero(likeness >= least)
                first, second = some[rows], columns + left
                once = (first < second) | (~chosen[second] & (first != second))
                yield first[once], second[once], likeness[rows, columns][once]

    def _join(self, slots: Rows) -> None:
        """Join these groups, and any with them, the most alike first."""
        needed = self._needed()
        near: defaultdict[int, set[int]] = defaultdict(set)
        heap: list[tuple[float, int, int, int, int]] = []
        # Less alike than by that much, two are not alike enough when either has grown.
        for first, second, likeness in self._alike(slots, needed * self._likeness.lasting):
            for a, b, one in zip(first.tolist(), second.tolist(), likeness.tolist(), strict=True):
                near[a].add(b)
                near[b].add(a)
                if one >= needed:
                    heap.append((-one, a, b, 0, 0))
        heapq.heapify(heap)
        into: dict[int, int] = {}
        turns: defaultdict[int, int] = defaultdict(int)
        while heap:
            _, a, b, turn_a, turn_b = heapq.heappop(heap)
            if (turns[a], turns[b]) != (turn_a, turn_b) or self._are_apart(a, b, into):
                continue
            kept, gone = sorted((a, b), key=self._rank)
            self._merge(kept, gone)
            into[gone] = kept
            turns[kept] += 1
            turns[gone] += 1
            # No more than either was, but for the length: nobody else can be near.
            others = near[kept] = (near[kept] | near.pop(gone)) - {kept, gone}
            ordered = sorted(others)
            likeness = self._groups.vectors[ordered] @ _turned(self._groups.vectors[kept])
            for other, one in zip(ordered, likeness.tolist(), strict=True):
                near[other].discard(gone)
                near[other].add(kept)
                if one >= needed:
                    heap_entry = (-one, kept, other, turns[kept], turns[other])
                    heapq.heappush(heap, heap_entry)
        if into:
            slots = np.arange(len(self._groups.numbers))
            for gone in into:
                slots[gone] = end_of(gone, into)
            live = self._faces.numbers >= 0
            self._faces.numbers[live] = slots[self._faces.numbers[live]]
            self._groups.free(np.array(list(into), np.intp))

    def _rank(self, slot: int) -> tuple[bool, int, int]:
        """Order groups by whose id is to stay: that which somebody may know, the larger, older."""
        group = int(self._ids[slot])
        return group >= self._first_new, -int(self._groups.numbers[slot]), group

    def _merge(self, kept: int, gone: int) -> None:
        vectors, sizes = self._groups.vectors, self._groups.numbers
        both = sizes[kept] + sizes[gone]
        one, other, sum_ = self._likeness.lengths(np.array([sizes[kept], sizes[gone], both]))
        vectors[kept] = (vectors[kept] * one + vectors[gone] * other) / sum_
        sizes[kept] = both
        if gone in self._barred:
            self._barred[kept] |= self._barred.pop(gone)
        if self._ids[gone] < self._first_new:
            self._merged[int(self._ids[gone])] = int(self._ids[kept])

    def _are_apart(self, a: int, b: int, into: Mapping[int, int]) -> bool:
        """Tell whether a face of one is barred from the other; ``into`` is where groups went."""
        return any(
            end_of(int(self._faces.numbers[row]), into) == other
            for one, other in ((a, b), (b, a))
            for row in self._barred.get(one, ())
        )

    def _begin(self) -> None:
        self._first_new, self._merged = self._next_id, {}

    def _changes(self, keys: Collection[Key]) -> Changes[Key]:
        merged = {one: end_of(one, self._merged) for one in self._merged}
        return Changes({key: self.group_of(key) for key in keys}, merged)


def end_of(one: int, into: Mapping[int, int]) -> int:
    """Return where a group's faces are, when ``into`` says in which others groups are."""
    while one in into:
        one = into[one]
    return one
