"""Groups of faces that nobody has named, each of one person as far as the encodings tell.

The most alike are joined first, while they are more alike than strangers are: see :mod:`likeness`.
"""

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.people.domain.likeness import BLOCK, TINY, Kind, Likeness, turned, units
from services.people.domain.vector_table import Rows, Vectors, VectorTable

COHORTS: Final = (250, 500, 1000)
"""Numbers of groups at which a face of each of them becomes what likenesses are held against. The
fewer, the rougher likenesses are; the more, the longer each face takes."""

_ROWS: Final = 16384
"""Groups at a time that they are compared with: the products take 16 MB."""

_ASKED: Final = 2.0
"""Decades below what joins two groups from which a person may be asked about them."""

_LARGEST: Final = 500
"""Groups about which a person may be asked."""

_PEOPLE: Final = 10
"""Known people that each of those is held against: the nearest by the product alone."""

Key = TypeVar("Key")


@dataclass(frozen=True)
class GroupChanges(Generic[Key]):
    """What a call has changed.

    ``placed`` has the group of each face that it was about, None for one that is in none;
    ``merged`` says of groups of before the call that are gone in which one their faces are.
    """

    placed: Mapping[Key, int | None]
    merged: Mapping[int, int]


@dataclass(frozen=True)
class LikelyPair:
    """A group and another, or a known person, who may be the same: a person is to say."""

    group: int
    other: int
    is_person: bool
    likeness: float


class Groups(Generic[Key]):
    """Faces by key, and the groups that they are in: each in one, if it can be compared at all.

    A group keeps its id, over 0, while it grows. Groups are joined and never divided; of two, the
    id of the larger stays, and the older at a tie. The same calls make the same groups.
    """

    def __init__(self, size: int, kind: Kind, *, next_id: int = 1) -> None:
        self._size = size
        self._kind = kind
        # Faces have the row of their group beside them, groups the number of their faces.
        self._faces = VectorTable(size)
        self._groups = VectorTable(size + 2)
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
        found = cls(encodings.shape[1], kind, next_id=max([next_id, *(group + 1 for group in ids)]))
        usable, faces = found._comparable(keys, encodings)
        found._ids, places = np.unique(np.array(ids, np.int64)[usable], return_inverse=True)
        slots = found._groups.take(
            np.zeros((len(found._ids), found._size + 2), np.float32), np.bincount(places)
        )
        found._take([keys[place] for place in usable], faces, slots[places])
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
    ) -> GroupChanges[Key]:
        """Put new faces into groups; encodings have the shape (faces, size).

        Of faces that are to be ``apart``, none of the one part is put together with one of the
        other, now or later; those that are not here do not count. A face without length, or with
        what is no number, comes into no group. Raises ValueError when the shape is another, or a
        key is there already or stands twice: then nothing has changed.
        """
        usable, faces = self._comparable(keys, encodings)
        self._begin()
        for start in range(0, len(usable), BLOCK):
            some = slice(start, start + BLOCK)
            alone = self._open(len(faces[some]))
            self._take([keys[place] for place in usable[some]], faces[some], alone)
            self._describe(alone)
            self._set_apart(apart)
            self._join(alone)
            self._keep_up()
        return self._changes(keys)

    def remove(self, keys: Iterable[Key]) -> GroupChanges[Key]:
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

    def bar(self, keys: Collection[Key], group: int) -> GroupChanges[Key]:
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

    def join(self, group: int, other: int) -> GroupChanges[Key]:
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
    ) -> list[LikelyPair]:
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
        return [LikelyPair(*pair, found[pair]) for pair in likely[:limit]]

    def _like_people(
        self, slots: Rows, people: Mapping[int, NDArray[np.floating]], asked: float
    ) -> dict[tuple[int, int, bool], float]:
        ids = list(people)
        known = units(np.array([people[person] for person in ids], np.float64))
        means = self._groups.vectors[slots]
        products = means[:, :-2] @ self._likeness.white(known).T
        near = np.argsort(-products, axis=1, kind="stable")[:, :_PEOPLE]
        chosen, places = np.unique(near, return_inverse=True)
        vectors = turned(self._likeness.vectors(known[chosen]))[places.reshape(near.shape)]
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
            usable[some] = np.isfinite(lengths) & (lengths > TINY)
            faces[some][usable[some]] = units(exact[usable[some]])
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
        self._likeness = Likeness(self._kind, self._faces.vectors[rows], rows)
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
        for start in range(0, len(slots), BLOCK):
            some = slots[start : start + BLOCK]
            facing = turned(self._groups.vectors[some])
            for left in range(0, len(chosen), _ROWS):
                likeness = facing @ self._groups.vectors[left : left + _ROWS].T
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
            likeness = self._groups.vectors[ordered] @ turned(self._groups.vectors[kept])
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

    def _changes(self, keys: Collection[Key]) -> GroupChanges[Key]:
        merged = {group: end_of(group, self._merged) for group in self._merged}
        return GroupChanges({key: self.group_of(key) for key in keys}, merged)


def end_of(one: int, into: Mapping[int, int]) -> int:
    """Return where a group's faces are, when ``into`` says in which others groups are."""
    while one in into:
        one = into[one]
    return one
