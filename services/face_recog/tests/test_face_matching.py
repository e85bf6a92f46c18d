import itertools

import numpy as np
import pytest

from services.common.faces import Likely
from services.face_recog.domain.faces import Encoding
from services.face_recog.domain.known_people import KnownPeople
from services.face_recog.domain.matching import match

random = np.random.default_rng(7)


def encoding(length: float = 1.4) -> Encoding:
    vector = random.normal(size=128)
    return vector / np.linalg.norm(vector) * length


def at(base: Encoding, distance: float) -> Encoding:
    """An encoding at this distance from the base."""
    step = random.normal(size=128)
    return base + step / np.linalg.norm(step) * distance


def brute_force(known: dict[str, Encoding], face: Encoding, count: int) -> list[Likely]:
    best: dict[str, Likely] = {}
    for name, encoding in known.items():
        person = name.split("/")[0]
        distance = float(np.linalg.norm(encoding.astype(np.float32) - face))
        if person not in best or distance < best[person].distance:
            best[person] = Likely(name, person, distance)
    return sorted(best.values(), key=lambda candidate: candidate.distance)[:count]


@pytest.mark.parametrize("pictures", [1, 2, 50, 3000])
@pytest.mark.parametrize("count", [1, 5, 4000])
def test_the_nearest_people_are_those_of_a_full_search(pictures: int, count: int) -> None:
    # Names whose order as whole strings is not their order by person.
    people = ["Ann", "Ann B", "Ann-C", "Zoe", "Émile", *(f"p{number}" for number in range(400))]
    known = {f"{random.choice(people)}/{number}.jpg": encoding() for number in range(pictures)}
    face = at(known[next(iter(known))], 0.3)
    found = KnownPeople(known).nearest(face, count)
    expected = brute_force(known, face, count)
    assert [likely.image_name for likely in found] == [likely.image_name for likely in expected]
    assert [likely.distance for likely in found] == pytest.approx(
        [likely.distance for likely in expected]
    )


def test_distances_are_exact_where_float32_products_are_not() -> None:
    base = encoding()
    known = {f"p{number}/x": at(base, 1e-4 * (number + 1)) for number in range(20)}
    found = KnownPeople(known).nearest(base, 20)
    assert [likely.folder for likely in found] == [f"p{number}" for number in range(20)]
    assert [likely.distance for likely in found] == pytest.approx(
        [1e-4 * (number + 1) for number in range(20)], rel=0.01
    )


def test_nobody_known() -> None:
    [found] = match(KnownPeople({}), [encoding()], tolerance=0.6, max_candidates=5)
    assert not found.candidates
    assert not found.ambiguous
    assert match(KnownPeople({}), [], tolerance=0.6, max_candidates=5) == []


def test_tolerance_and_number_of_candidates() -> None:
    face = encoding()
    people = KnownPeople({f"p{number}/x": at(face, number / 10) for number in range(1, 10)})
    [found] = match(people, [face], tolerance=0.55, max_candidates=5)
    assert [likely.folder for likely in found.candidates] == ["p1", "p2", "p3", "p4", "p5"]
    [found] = match(people, [face], tolerance=0.15, max_candidates=5)
    assert [likely.folder for likely in found.candidates] == ["p1"]
    [found] = match(people, [face], tolerance=1.0, max_candidates=2)
    assert [likely.folder for likely in found.candidates] == ["p1", "p2"]


@pytest.mark.parametrize(
    ("distances", "ambiguous"),
    [
        ([0.3], False),
        ([0.51], True),
        ([0.49], False),
        ([0.3, 0.34], True),
        ([0.3, 0.36], False),
        ([0.38, 0.42], True),  # the runner-up is beyond the tolerance and near all the same
    ],
)
def test_ambiguous(distances: list[float], ambiguous: bool) -> None:
    face = encoding()
    people = KnownPeople(
        {f"p{index}/x": at(face, distance) for index, distance in enumerate(distances)}
    )
    tolerance = 0.4 if distances[0] == 0.38 else 0.6
    [found] = match(people, [face], tolerance=tolerance, max_candidates=1)
    assert found.ambiguous is ambiguous


def test_two_pictures_of_one_person_are_not_ambiguous() -> None:
    face = encoding()
    people = KnownPeople({"p/1": at(face, 0.3), "p/2": at(face, 0.31)})
    [found] = match(people, [face], tolerance=0.6, max_candidates=5)
    assert [likely.image_name for likely in found.candidates] == ["p/1"]
    assert not found.ambiguous


def test_a_person_is_in_a_picture_once() -> None:
    base = encoding()
    near, far = at(base, 0.2), at(base, 0.4)
    people = KnownPeople({"twin/x": base, "other/x": at(far, 0.45)})
    for faces in ([near, far], [far, near]):
        found = match(people, faces, tolerance=0.6, max_candidates=5)
        names = [matched.candidates[0].folder for matched in found]
        assert sorted(names) == ["other", "twin"]
        assert names[[face is near for face in faces].index(True)] == "twin"
        loser = found[[face is far for face in faces].index(True)]
        assert loser.ambiguous
        assert all(likely.folder != "twin" for likely in loser.candidates)


def test_whoever_loses_the_only_candidate_is_nobody() -> None:
    base = encoding()
    faces = [at(base, 0.4), at(base, 0.2), at(base, 0.3)]
    found = match(KnownPeople({"p/x": base}), faces, tolerance=0.6, max_candidates=5)
    assert [len(matched.candidates) for matched in found] == [0, 1, 0]


def test_names_in_a_crowd_are_never_given_twice() -> None:
    base = encoding()
    people = KnownPeople({f"p{number}/x": at(base, 0.2) for number in range(30)})
    faces = [at(base, 0.2) for _ in range(40)]
    found = match(people, faces, tolerance=0.6, max_candidates=1)
    names = [matched.candidates[0].folder for matched in found if matched.candidates]
    assert len(names) == 30
    assert all(a != b for a, b in itertools.combinations(names, 2))


def test_the_nearest_picture_of_a_person_is_exact_too() -> None:
    base = encoding()
    for _ in range(20):
        known = {f"p/{number}": at(base, 1e-4 * (number + 1)) for number in range(20)}
        [found] = KnownPeople(known).nearest(base, 1)
        assert found.image_name == "p/0"


def test_folders_of_one_name_in_two_forms_are_one_person() -> None:
    face = encoding()
    composed, decomposed = "Zo\u00eb/x", "Zoe\u0308/y"
    # Another name would be sorted between them.
    people = KnownPeople(
        {composed: at(face, 0.3), "Zof/x": at(face, 0.5), decomposed: at(face, 0.1)}
    )
    assert (people.people, people.pictures) == (2, 3)
    found = people.nearest(face, 2)
    assert [(likely.folder, likely.image_name) for likely in found] == [
        ("Zo\u00eb", decomposed),
        ("Zof", "Zof/x"),
    ]


def test_a_face_is_like_whoever_has_a_picture_near_enough() -> None:
    face = encoding()
    known = {"Ada/1": at(face, 0.9), "Ada/2": at(face, 0.61), "Zoe\u0308/1": at(face, 0.59)}
    people = KnownPeople(known)
    assert people.is_like("Zo\u00eb", face) is True
    assert people.is_like("Ada", face) is False
    assert people.is_like("Ada", known["Ada/2"]) is True
    assert [people.is_like(name, face) for name in ("", "Ad", "Adam", "Zz")] == [None] * 4
    assert KnownPeople({}).is_like("Ada", face) is None


def test_a_picture_is_unlike_when_no_other_of_its_person_is_near_enough() -> None:
    face = encoding()
    known = {
        "Ada/1": face,
        "Ada/2": at(face, 0.59),
        "Bo/1": face,
        "Bo/2": at(face, 0.61),
        "Cy/1": at(face, 3),
        "Di/far": at(face, 3),
        "Di/near": face,
        "Di/same": face,
    }
    people = KnownPeople(known)
    unlike = people.unlike_others([*known, "Bo/3", "Eve/1", "A/1"])
    assert unlike == pytest.approx({"Bo/1": 0.61, "Bo/2": 0.61, "Di/far": 3}, abs=1e-4)
    assert people.unlike_others(["Di/near", "Di/far"]).keys() == {"Di/far"}
    assert KnownPeople({}).unlike_others(["Ada/1"]) == {}
