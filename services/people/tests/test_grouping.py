from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.face_recog.domain import strangers
from services.people.domain import grouping
from services.people.domain.grouping import COHORTS, Groups, LikelyPair
from services.people.domain.likeness import Demand, Likeness, kind_of, turned, units
from services.people.domain.vector_table import Vectors

SIZE = 128
KIND = kind_of("centerface+onnx-1", strangers.tails_within(1.1).product.pairs)
DLIB = kind_of("centerface+dlib-1", strangers.DLIB.product.pairs)


def people(number: int, faces: int, *, spread: float = 0.2, seed: int = 1) -> Vectors:
    """Faces of people who look like nobody else, one person's after the other's."""
    drawing = np.random.default_rng(seed)
    centres = drawing.normal(size=(number, 1, SIZE))
    made = centres + spread * drawing.normal(size=(number, faces, SIZE))
    return made.reshape(-1, SIZE).astype(np.float32)


def parts(groups: Groups[int]) -> set[frozenset[int]]:
    ids = {groups.group_of(key) for key in groups._rows}
    assert None not in ids
    return {frozenset(groups.members(one)) for one in ids if one is not None}


def by_person(number: int, faces: int) -> set[frozenset[int]]:
    return {frozenset(range(one * faces, (one + 1) * faces)) for one in range(number)}


@pytest.mark.parametrize("number", [1, 40, COHORTS[0] + 50])
@pytest.mark.parametrize("batch", [1, 7, 2000])
def test_each_person_is_a_group_with_and_without_a_cohort(number: int, batch: int) -> None:
    faces = people(number, 3)
    order = np.random.default_rng(2).permutation(len(faces))
    groups: Groups[int] = Groups(SIZE, KIND)
    for start in range(0, len(faces), batch):
        some = order[start : start + batch]
        groups.add(some.tolist(), faces[some])
    assert parts(groups) == by_person(number, 3)
    assert (groups._likeness.faces > 0) == (number >= COHORTS[0])


def test_the_mean_of_two_groups_vectors_gives_the_mean_likeness_of_their_faces() -> None:
    cohort = units(people(300, 1))
    likeness = Likeness(DLIB, cohort, np.arange(300))
    vectors = likeness.vectors(units(people(2, 4, seed=3)))
    white = likeness.white(units(people(2, 4, seed=3)))
    products = np.sort(white @ likeness._cohort.T, axis=1)[:, 300 - 1 - 105 : 300 - 1 - 3]
    mean, spread = products.mean(axis=1), products.std(axis=1)
    pairs = [
        (white[a] @ white[b] - (mean[a] + mean[b]) / 2) / np.sqrt(spread[a] * spread[b])
        for a in range(4)
        for b in range(4, 8)
    ]
    one, other = vectors[:4].mean(axis=0), vectors[4:].mean(axis=0)
    assert one @ turned(other) == pytest.approx(np.mean(pairs), abs=1e-4)


def test_the_more_faces_two_groups_have_the_more_counts_that_they_are_alike_on_average() -> None:
    faces = people(COHORTS[0] + 2, 5)
    faces[5] = faces[4]
    ids = np.repeat(np.arange(1, COHORTS[0] + 3), 5)
    # One person's faces are in groups of 2 and 3, and one is still to come.
    ids[:2] = 999
    stored = np.delete(np.arange(len(ids)), 5)
    groups: Groups[int] = Groups.restore(DLIB, stored.tolist(), faces[stored], ids[stored].tolist())
    each = groups._likeness.vectors(units(faces))

    def likeness(one: int, other: int) -> float:
        slots = [groups._slots([groups.group_of(key) or 0])[0] for key in (one, other)]
        first, second = groups._groups.vectors[slots]
        return float(first @ turned(second))

    def expected(some: slice, others: slice) -> float:
        alike = each[some] @ turned(each[others]).T
        return float(alike.mean() / np.prod([np.sqrt(0.9 + 0.1 / one) for one in alike.shape]))

    assert likeness(0, 2) == pytest.approx(expected(slice(2), slice(2, 5)), rel=1e-3)
    groups.add([5], faces[5:6])
    assert len(groups.members(groups.group_of(5) or 0)) == 6
    assert likeness(0, 10) == pytest.approx(expected(slice(6), slice(10, 15)), rel=1e-3)


def test_more_groups_and_a_smaller_cohort_ask_for_more() -> None:
    faces = units(people(2000, 1))

    def needed(cohort: int, groups: int) -> float:
        likeness = Likeness(DLIB, faces[:cohort], np.arange(cohort))
        return likeness.needed(groups)

    assert needed(1000, 1000) == needed(2000, 300) == DLIB.standing.likeness
    assert needed(1000, 10_000) == pytest.approx(DLIB.standing.likeness + DLIB.standing.decade)
    assert needed(250, 1000) > needed(500, 1000) > needed(1000, 1000)
    assert needed(0, 10) == DLIB.product.likeness


def two_groups(*sizes: int) -> tuple[Groups[int], list[int], Vectors]:
    """Two of these sizes, with their ids and one's face each, and less needed to join them now."""
    faces = units(np.eye(2, SIZE, dtype=np.float32) + 0.1)
    groups: Groups[int] = Groups(SIZE, KIND)
    groups._likeness.demand = Demand(0.9, 0.1)
    for turn, (face, size) in enumerate(zip(faces, sizes, strict=True)):
        groups.add(range(10 * turn, 10 * turn + size), np.tile(face, (size, 1)))
    ids = [groups.group_of(key) or 0 for key in (0, 10)]
    assert len(parts(groups)) == 2
    groups._likeness.demand = Demand(float(faces[0] @ faces[1]) - 0.01, 0.1)
    return groups, ids, faces


@pytest.mark.parametrize("sizes", [(1, 3), (3, 1), (2, 2)])
def test_of_two_groups_the_larger_keeps_its_id_and_the_older_at_a_tie(
    sizes: tuple[int, int],
) -> None:
    groups, (older, newer), faces = two_groups(*sizes)
    changes = groups.add([99], faces.sum(axis=0, keepdims=True))
    kept, gone = (newer, older) if sizes == (1, 3) else (older, newer)
    assert changes.merged == {gone: kept}
    assert changes.placed == {99: kept}
    assert groups.members(gone) == []
    assert sorted(groups.members(kept)) == sorted([*range(sizes[0]), *range(10, 10 + sizes[1]), 99])


def test_who_is_barred_from_a_group_is_so_from_the_one_that_it_becomes_part_of() -> None:
    groups, (larger, smaller), faces = two_groups(3, 2)
    demand, groups._likeness.demand = groups._likeness.demand, Demand(0.9, 0.1)
    groups.add([50], faces[1:] - 0.1 * faces[:1])
    alone = groups.bar([50], smaller).placed[50]
    groups._likeness.demand = demand
    # As alike to what that makes of them as they were to each other.
    between = (2 * faces[:1] + faces[1:]).astype(np.float32)
    assert groups.add([99], between).merged == {smaller: larger}
    assert groups.group_of(50) == alone != larger


def test_a_new_face_is_not_barred_for_one_that_is_gone() -> None:
    groups, (larger, _), faces = two_groups(3, 2)
    groups.bar([2], larger)
    groups.remove([2])
    assert groups.add([200], faces[:1]).placed == {200: larger}


@pytest.mark.parametrize("block", [1, 4, 256])
def test_new_faces_of_one_person_are_apart_whatever_comes_first(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(grouping, "BLOCK", block)
    faces = people(1, 12)
    groups: Groups[int] = Groups(SIZE, KIND)
    some, others = {0, 3, 8}, {1, 6, 7, 99}
    groups.add([8, 0, 1, 3], faces[[8, 0, 1, 3]], apart=[(some, others)])
    groups.add([6, 7], faces[[6, 7]], apart=[(some, others)])
    groups.add([9, 10, 11], faces[9:])  # as alike to either
    assert len(parts(groups)) == 2
    assert not any(one & some and one & others for one in parts(groups))


def test_a_small_old_group_keeps_its_id_when_many_new_faces_join_it() -> None:
    faces = people(1, 30)
    groups: Groups[int] = Groups(SIZE, KIND)
    first = groups.add([0], faces[:1]).placed[0]
    changes = groups.add(list(range(1, 30)), faces[1:])
    assert set(changes.placed.values()) == {first}
    assert changes.merged == {}


@pytest.mark.parametrize("odd", [np.nan, np.inf, 0.0])
def test_what_cannot_be_compared_is_in_no_group_and_changes_no_other(odd: float) -> None:
    faces = people(4, 3)
    faces[5] = odd
    groups: Groups[int] = Groups(SIZE, KIND)
    placed = groups.add(list(range(12)), faces).placed
    assert placed[5] is None
    assert groups.group_of(5) is None
    assert parts(groups) == {part - {5} for part in by_person(4, 3)}
    assert len(groups) == 11
    assert groups.add([5], people(4, 3)[5:6]).placed[5] == placed[3]


@pytest.mark.parametrize(
    ("keys", "shape", "reason"),
    [
        ([7, 8], (2, SIZE - 1), "not \\(2, 128\\)"),
        ([7], (2, SIZE), "not \\(1, 128\\)"),
        ([7], (SIZE,), "not \\(1, 128\\)"),
        ([7, 7], (2, SIZE), "stands twice"),
        ([7, 0], (2, SIZE), "face 0 is there already"),
    ],
)
def test_a_call_that_is_wrong_says_so_and_changes_nothing(
    keys: list[int], shape: tuple[int, ...], reason: str
) -> None:
    groups: Groups[int] = Groups(SIZE, KIND)
    groups.add([0], people(1, 1))
    with pytest.raises(ValueError, match=reason):
        groups.add(keys, np.ones(shape, np.float32))
    assert parts(groups) == {frozenset([0])}
    with pytest.raises(ValueError, match="no group 9"):
        groups.bar([0], 9)
    with pytest.raises(ValueError, match="no face 7"):
        groups.bar([0, 7], 1)
    assert parts(groups) == {frozenset([0])}
    assert not any(groups._barred.values())


def test_no_faces_are_no_change() -> None:
    groups: Groups[int] = Groups(SIZE, KIND)
    assert groups.add([], np.empty((0, SIZE))).placed == {}
    assert groups.remove([1]).placed == {}
    assert groups.suggestions(5) == []
    assert len(Groups.restore(KIND, [], np.empty((0, SIZE)), [])) == 0


def test_ten_thousand_times_the_same_face_is_one_group() -> None:
    groups: Groups[int] = Groups(SIZE, KIND)
    faces = np.tile(people(1, 1), (10_000, 1))
    assert set(groups.add(list(range(10_000)), faces).placed.values()) == {1}
    others = people(COHORTS[0], 1, seed=5)
    groups.add(list(range(10_000, 10_000 + len(others))), others)
    assert groups._likeness.faces == COHORTS[0]
    assert groups.add([-1], faces[:1]).placed == {-1: 1}


def test_a_cohort_of_faces_that_are_all_alike_breaks_nothing() -> None:
    same = units(np.tile(people(1, 1), (COHORTS[0], 1)))
    likeness = Likeness(KIND, same, np.arange(len(same)))
    assert np.isfinite(likeness.vectors(same)).all()


def test_struck_out_faces_leave_and_stay_out() -> None:
    faces = people(3, 6)
    groups: Groups[int] = Groups(SIZE, KIND)
    groups.add(list(range(17)), faces[:17])
    group = groups.group_of(0)
    assert group is not None
    changes = groups.bar([0, 1], group)
    assert sorted(groups.members(group)) == [2, 3, 4, 5]
    assert changes.placed[0] == changes.placed[1] != group
    later = faces[2:5] + np.float32(0.01)
    groups.add([100, 101, 102], later)
    assert groups.group_of(0) != groups.group_of(2)
    # Not after another day's start either.
    keys = list(groups._rows)
    again = Groups.restore(
        KIND,
        keys,
        np.array([groups._faces.vectors[groups._rows[key]] for key in keys]),
        [groups.group_of(key) or 0 for key in keys],
        barred=[(0, group), (1, group), (77, group), (0, 9999)],
    )
    assert parts(again) == parts(groups)
    again.add([103, 104], later[:2])
    assert again.group_of(0) != again.group_of(2)
    assert again.suggestions(10) == groups.suggestions(10) == []


def test_removed_faces_leave_no_trace() -> None:
    faces = people(COHORTS[0] + 20, 2)
    groups: Groups[int] = Groups(SIZE, KIND)
    groups.add(list(range(len(faces))), faces)
    cohort = groups._likeness.faces
    group = groups.group_of(1)
    assert groups.remove([0, 1, 12345]).placed == {0: None, 1: None}
    assert group is not None
    assert groups.members(group) == []
    assert len(groups) == len(faces) - 2
    assert groups._likeness.faces == cohort - 1
    assert len(groups._likeness._cohort) == cohort - 1
    assert (groups._faces._vectors @ units(faces[:2]).T).max() < 0.9
    assert not {0, 1} & set(groups._keys.values())
    # A group loses what a removed face gave to it.
    one, other = 2, 3
    groups.remove([one])
    alone = groups._likeness.vectors(units(faces[other : other + 1]))[0]
    slot = groups._faces.numbers[groups._rows[other]]
    assert groups._groups.vectors[slot] == pytest.approx(alone, abs=1e-5)


def test_when_most_of_a_cohort_is_removed_there_is_another_or_none() -> None:
    faces = people(COHORTS[1] + 10, 1)
    groups: Groups[int] = Groups(SIZE, KIND)
    groups.add(list(range(len(faces))), faces)
    assert groups._likeness.faces == COHORTS[1]
    groups.remove(range(COHORTS[1] // 2 + 1))
    assert groups._likeness.faces == COHORTS[0]
    groups.remove(range(COHORTS[1] // 2 + COHORTS[0] // 2 + 2))
    assert groups._likeness.faces == 0
    assert groups.add([-1], faces[-1:]).placed[-1] == groups.group_of(len(faces) - 1)


def test_restored_groups_go_on_as_those_that_never_stopped() -> None:
    faces = people(COHORTS[0] + 60, 3)
    half = len(faces) // 2
    order = np.random.default_rng(4).permutation(len(faces))
    groups: Groups[int] = Groups(SIZE, KIND)
    groups.add(order[:half].tolist(), faces[order[:half]])
    ids = [groups.group_of(key) or 0 for key in order[:half].tolist()]
    again = Groups.restore(KIND, order[:half].tolist(), faces[order[:half]], ids, next_id=5000)
    assert parts(again) == parts(groups)
    for one in (groups, again):
        one.add(order[half:].tolist(), faces[order[half:]])
    assert parts(again) == parts(groups)
    # Ids of before stay, new ones are new.
    for key, group in zip(order[:half].tolist(), ids, strict=True):
        assert again.group_of(key) == groups.group_of(key)
        assert group < 5000
    fresh = {again.group_of(key) or 0 for key in order.tolist()} - set(ids)
    assert fresh
    assert min(fresh) >= 5000


def half_alike() -> tuple[Groups[int], Vectors]:
    """Three groups: those of the faces 0 and 1 are alike, but not enough."""
    one, other, far = np.eye(3, SIZE, dtype=np.float32)
    faces = np.array([one, one * 0.9 * KIND.product.likeness + other * 0.87, far])
    groups: Groups[int] = Groups(SIZE, KIND)
    groups.add([0, 1, 2], faces)
    assert len(parts(groups)) == 3
    return groups, faces


def test_groups_that_are_alike_but_not_enough_are_asked_about() -> None:
    groups, faces = half_alike()
    [asked] = groups.suggestions(5)
    assert (asked.group, asked.other, asked.is_person) == (1, 2, False)
    assert asked.likeness < KIND.product.likeness
    assert groups.suggestions(0) == []
    assert groups.suggestions(5, without=[(1, 2, False)]) == []
    groups.bar([0], 2)
    assert groups.suggestions(5) == []
    # A known person, by what is more alike first.
    found = groups.suggestions(5, {70: faces[0], 71: faces[2] * 0.5 + faces[1], 72: -faces[0]})
    assert [(one.group, one.other) for one in found][:2] == [(1, 70), (2, 71)]
    assert all(one.is_person for one in found)
    assert found == sorted(found, key=lambda one: -one.likeness)
    without = groups.suggestions(5, {70: faces[0]}, without=[(1, 70, True)])
    assert LikelyPair(1, 70, True, found[0].likeness) not in without
    assert groups.suggestions(1, {70: faces[0]}) == found[:1]


vectors = arrays(
    np.float32, (4,), elements=st.sampled_from([0, 0, 1, -1, 0.5, 0.9, np.nan, 3e38, 1e-30])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(vectors, max_size=30), st.integers(1, 8))
def test_whatever_comes_is_in_one_group_or_cannot_be_compared(
    faces: Sequence[Vectors], batch: int
) -> None:
    matrix = np.array(faces, np.float32).reshape(-1, 4)
    first: Groups[int] = Groups(4, DLIB)
    second: Groups[int] = Groups(4, DLIB)
    for groups in (first, second):
        for start in range(0, len(matrix), batch):
            some = matrix[start : start + batch]
            groups.add(list(range(start, start + len(some))), some)
    ids = [first.group_of(key) for key in range(len(matrix))]
    assert ids == [second.group_of(key) for key in range(len(matrix))]  # always the same ones
    length = np.linalg.norm(matrix.astype(np.float64), axis=1)
    for key, one in enumerate(ids):
        usable = bool(np.isfinite(length[key])) and length[key] > 1e-12
        assert (one is not None) == usable
    assert sum(map(len, parts(first))) == len(first) == len(set().union(*parts(first)))


class Days(RuleBasedStateMachine):
    """Faces come, go, are struck out and restored, in any order, by few dimensions and a cohort."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(grouping, "COHORTS", (6, 12))

    def teardown(self) -> None:
        self.patch.undo()

    @initialize()
    def begin(self) -> None:
        self.groups: Groups[int] = Groups(8, DLIB)
        self.faces: dict[int, Vectors] = {}
        self.barred: dict[tuple[int, int], int] = {}
        self.seen: dict[int, int] = {}
        self.next = 0

    def follow(self, merged: dict[int, int]) -> None:
        """Every group of before is there under its id, or under the one that is told."""
        for key, before in self.seen.items():
            assert self.groups.group_of(key) == merged.get(before, before)
        self.barred = {
            (key, merged.get(group, group)): 0
            for key, group in self.barred
            if self.groups.members(merged.get(group, group))
        }

    def note(self) -> None:
        self.seen = {key: self.groups.group_of(key) or 0 for key in self.faces}

    @rule(seed=st.integers(0, 2**16), count=st.integers(1, 8), person=st.integers(0, 5))
    def faces_come(self, seed: int, count: int, person: int) -> None:
        drawing = np.random.default_rng(seed)
        centre = np.random.default_rng(person).normal(size=8)
        made = (centre + 0.2 * drawing.normal(size=(count, 8))).astype(np.float32)
        keys = list(range(self.next, self.next + count))
        self.next += count
        merged = dict(self.groups.add(keys, made).merged)
        self.follow(merged)
        self.faces |= dict(zip(keys, made, strict=True))
        self.note()

    @rule(turn=st.integers(0, 2**16))
    def a_face_goes(self, turn: int) -> None:
        if self.faces:
            key = sorted(self.faces)[turn % len(self.faces)]
            self.groups.remove([key])
            del self.faces[key], self.seen[key]
            self.barred = {pair: 0 for pair in self.barred if pair[0] != key}
            self.follow({})

    @rule(turn=st.integers(0, 2**16), other=st.integers(0, 2**16))
    def a_face_is_barred(self, turn: int, other: int) -> None:
        if self.faces:
            key, stranger = (sorted(self.faces)[one % len(self.faces)] for one in (turn, other))
            group = self.groups.group_of(stranger)
            assert group is not None
            changes = self.groups.bar([key], group)
            if self.seen[key] == group:
                del self.seen[key]
            self.barred[key, group] = 0
            self.follow(dict(changes.merged))
            self.note()

    @rule()
    def a_day_begins(self) -> None:
        keys = sorted(self.faces)
        if keys:
            self.groups = Groups.restore(
                DLIB,
                keys,
                np.array([self.faces[key] for key in keys]),
                [self.seen[key] for key in keys],
                barred=self.barred,
            )
            self.follow({})

    @invariant()
    def each_face_is_in_one_group_and_in_none_that_it_is_barred_from(self) -> None:
        if not hasattr(self, "groups"):
            return
        together = parts(self.groups)
        assert set().union(*together) == set(self.faces)
        assert sum(map(len, together)) == len(self.faces) == len(self.groups)
        for key, group in self.barred:
            assert self.groups.group_of(key) != group

    @invariant()
    def what_is_asked_about_is_not_one(self) -> None:
        if hasattr(self, "groups"):
            found = self.groups.suggestions(20)
            assert len({(one.group, one.other) for one in found}) == len(found)
            assert all(one.group < one.other for one in found)


TestDays = Days.TestCase
TestDays.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize(("cohort", "spread"), [(1000, 0.9), (12, 1.5)])
def test_no_pair_of_groups_is_left_that_is_alike_enough(
    cohort: int, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouping, "COHORTS", (cohort,))
    faces = people(60, 6, spread=spread)
    groups: Groups[int] = Groups(SIZE, KIND)
    for start in range(0, len(faces), 16):
        groups.add(list(range(start, min(start + 16, len(faces)))), faces[start : start + 16])
    assert (groups._likeness.faces > 0) == (cohort < 60)
    live = np.flatnonzero(groups._groups.numbers > 0)
    vectors = groups._groups.vectors[live]
    assert 60 < len(live) < 360
    for a, b in combinations(range(len(live)), 2):
        assert vectors[a] @ turned(vectors[b]) < groups._needed()
