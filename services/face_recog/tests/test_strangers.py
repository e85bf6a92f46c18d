"""Whom a likeness is held against, and that no more strangers are named than may be."""

from typing import Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.face_recog.domain.calibration import Calibration, Rule
from services.face_recog.domain.faces import Encoding
from services.face_recog.domain.known_people import KnownPeople, Portraits
from services.face_recog.domain.matching import Outcome, decide
from services.face_recog.domain.strangers import (
    DLIB,
    DRAWN,
    FITTED,
    Model,
    Seen,
    Strangers,
    Tails,
    Vectors,
    tails_within,
)

SIZE: Final = 64
ASKED: Final = 400


def unit(faces: Encoding) -> Vectors:
    scaled: Vectors = (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float32)
    return scaled


class World:
    """Faces of a few kinds that lie close together, as those of dlib do."""

    def __init__(self, seed: int, kinds: int = 5, size: int = SIZE) -> None:
        self._drawing = np.random.default_rng(seed)
        self._kinds = self._drawing.normal(size=(kinds, size)) + 2.5
        self._size = size

    def faces(self, number: int) -> Vectors:
        kinds = self._kinds[self._drawing.integers(len(self._kinds), size=number)]
        faces = kinds + self._drawing.normal(size=(number, self._size))
        return unit(faces)

    def again(self, face: Vectors, distance: float) -> Encoding:
        """Another picture of somebody."""
        step = self._drawing.normal(size=self._size)
        return np.asarray(face + distance * step / np.linalg.norm(step), np.float64)


def share_named(people: Vectors, strangers: Strangers, faces: Vectors, false_names: float) -> float:
    portraits = Portraits(
        KnownPeople(
            {f"p{number}/1": face.astype(np.float64) for number, face in enumerate(people)}
        ),
        strangers,
    )
    rule = Rule.of(Calibration.after(None, len(people)), strangers.tail, false_names)
    outcomes = [
        decide(portraits, [face.astype(np.float64)], rule, max_candidates=1)[0].outcome
        for face in faces
    ]
    return outcomes.count(Outcome.NAMED) / len(faces)


def by_chance(share: float) -> float:
    """What that share of ``ASKED`` may come to, by five deviations."""
    return share + 5 * float(np.sqrt(share / ASKED))


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0), st.integers(2, 12), st.integers(5, 300), st.sampled_from([0.005, 0.01, 0.05])
)
def test_no_more_strangers_are_named_than_may_be(
    seed: int, kinds: int, people: int, false_names: float
) -> None:
    world = World(seed, kinds)
    strangers = Strangers(DLIB, Model.of(world.faces(300), seen=300))
    share = share_named(world.faces(people), strangers, world.faces(ASKED), false_names)
    assert share <= by_chance(false_names)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0), st.integers(64, 512), st.integers(5, 300), st.sampled_from([0.005, 0.01, 0.05])
)
def test_nor_before_there_is_a_model_where_the_distance_tells_people_apart(
    seed: int, size: int, people: int, false_names: float
) -> None:
    """One in 1,000 products of directions is over 3.1 deviations, each of which is 1 / √size."""
    world = unit(np.random.default_rng(seed).normal(size=(people + ASKED, size)))
    tails = tails_within(float(np.sqrt(2 - 2 * 3.1 / np.sqrt(size))))
    share = share_named(world[:people], Strangers(tails), world[people:], false_names)
    assert share <= by_chance(false_names)


def test_other_pictures_of_known_people_are_named() -> None:
    world = World(3)
    people = world.faces(100)
    portraits = Portraits(
        KnownPeople(
            {f"p{number}/1": face.astype(np.float64) for number, face in enumerate(people)}
        ),
        Strangers(DLIB, Model.of(world.faces(300), seen=300)),
    )
    rule = Rule.of(Calibration.after(None, 100), portraits.strangers.tail, 0.01)
    answers = [
        decide(portraits, [world.again(face, 0.2)], rule, max_candidates=1)[0] for face in people
    ]
    named = [
        match.outcome is Outcome.NAMED and match.candidates[0].folder == f"p{number}"
        for number, match in enumerate(answers)
    ]
    assert sum(named) > 90


def test_a_model_is_the_same_each_time_and_so_are_the_faces_of_nobody() -> None:
    faces = World(1).faces(250)
    one, other = Model.of(faces, seen=250), Model.of(faces, seen=250)
    np.testing.assert_array_equal(one.draw(), other.draw())
    assert one.draw().shape == (DRAWN, SIZE)
    np.testing.assert_allclose(np.linalg.norm(one.draw(), axis=1), 1, rtol=1e-5)
    # Nobody's: as far from those that it was fitted to as these are from one another.
    own = faces @ faces.T
    np.fill_diagonal(own, -1)
    assert float((one.draw() @ faces.T).max(axis=1).mean()) < float(own.max(axis=1).mean()) + 0.02


def test_standing_is_mean_and_spread_of_the_nearest_tenth() -> None:
    strangers = Strangers(DLIB, Model.of(World(1).faces(250), seen=250))
    asked = World(2).faces(2500)
    means, spreads = strangers.standing(asked)
    [mean], [spread] = strangers.standing(asked[7:8])
    assert means.shape == spreads.shape == (2500,)
    np.testing.assert_allclose([means[7], spreads[7]], [mean, spread], rtol=1e-4)
    model = Model.of(World(1).faces(250), seen=250)
    nearest = np.sort(model.draw() @ asked[7])[-DRAWN // 10 :]
    np.testing.assert_allclose([mean, spread], [nearest.mean(), nearest.std()], rtol=1e-3)


@settings(deadline=None, max_examples=10)
@given(st.integers(0), st.integers(2, 20))
def test_any_engine_may_have_a_model(seed: int, size: int) -> None:
    """Few numbers, and such that always are the same."""
    faces = np.random.default_rng(seed).normal(size=(300, size))
    faces[:, 0] = 1
    assert np.isfinite(Model.of(unit(faces), seen=300).draw()).all()


def directions(number: int, seed: int = 1) -> Vectors:
    return unit(np.random.default_rng(seed).normal(size=(number, SIZE)))


def test_a_model_comes_with_250_faces_and_once_more_with_1000() -> None:
    seen = Seen(SIZE, DLIB)
    model: Model | None = None
    fitted = []
    for number, face in enumerate(directions(1200), 1):
        seen.add(face)
        newer = seen.fit((), model)
        if newer:
            fitted.append((number, newer.seen))
            model = newer
    assert fitted == [(number, number) for number in FITTED]
    assert len(seen.faces) == FITTED[-1]


def test_one_person_who_comes_often_counts_once() -> None:
    seen = Seen(SIZE, DLIB)
    [face] = directions(1)
    for number in range(300):
        seen.add(7 * face + directions(1, number)[0] / 2)
    assert len(seen.faces) == 1
    assert seen.fit((), None) is None


def test_known_people_serve_until_enough_others_were_seen() -> None:
    seen, known = Seen(SIZE, DLIB), directions(260, 2)
    assert seen.fit(known[:249], None) is None
    assert seen.fit([known[0]] * 300, None) is None
    first = seen.fit(known, None)
    assert first
    assert first.seen == 0
    assert seen.fit(known, first) is None
    for face in directions(250):
        seen.add(face)
    second = seen.fit(known, first)
    assert second
    assert second.seen == 250


def test_a_model_that_is_known_already_is_not_drawn_from_again() -> None:
    strangers = Strangers(DLIB)
    model = Model.of(directions(250), seen=250)
    knowing = strangers.know(model)
    assert knowing is not strangers
    assert knowing.know(model) is knowing
    assert strangers.know(None) is strangers
    assert (strangers.tail, knowing.tail) == (DLIB.product, DLIB.standing)


def test_without_a_model_a_likeness_is_the_product() -> None:
    people, [face] = directions(9), directions(1, 2)
    strangers = Strangers(Tails(DLIB.product, DLIB.standing))
    [alike] = strangers.likenesses(face[None], people, strangers.standing(people))
    np.testing.assert_allclose(alike, people @ face, rtol=1e-5)


@pytest.mark.parametrize("tails", [DLIB, tails_within(1.1)])
def test_whoever_compares_is_told_how_many_strangers_are_as_near(tails: Tails) -> None:
    pairs = tails.product.pairs
    for share in (1e-3, 1e-4, 1e-6):
        product = tails.product.likeness_of(share, 1)
        assert pairs.in_a_million(np.sqrt(2 - 2 * product)) == pytest.approx(share * 1e6, rel=1e-4)
    assert pairs.in_a_million(2.0) == 1e6
    assert 0 < pairs.in_a_million(0.0) < 0.1


@pytest.mark.parametrize("distance", [0.9, 1.1, 1.3])
def test_a_stricter_distance_asks_for_a_greater_likeness(distance: float) -> None:
    tails = tails_within(distance)
    assert tails.product.likeness_of(0.01, 10) == pytest.approx(1 - distance**2 / 2, rel=0.02)
    stricter = tails_within(distance - 0.1).product
    assert stricter.likeness_of(0.01, 10) > tails.product.likeness_of(0.01, 10)
