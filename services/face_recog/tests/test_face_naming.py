"""The calibrated rule: who is named, who is asked about, and what cannot change either."""

from typing import Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.face_recog.domain.calibration import DEFAULT_FALSE_NAMES, Calibration, Rule
from services.face_recog.domain.faces import Encoding
from services.face_recog.domain.known_people import KnownPeople, Portraits
from services.face_recog.domain.matching import Match, Outcome, decide
from services.face_recog.domain.strangers import Strangers, Tail, Tails

TAIL: Final = Tail(0.12, 0.052)
"""Of the products of directions in 128 dimensions, which are normal with a spread of 0.088."""

NO_MODEL: Final = Strangers(Tails(TAIL, TAIL))

Known = dict[str, Encoding]


def somebody(number: int) -> Encoding:
    """A face that looks like nobody else's."""
    direction: Encoding = np.random.default_rng(number).normal(size=128)
    return direction / np.linalg.norm(direction)


def picture(person: int, number: int, distance: float = 0.15) -> Encoding:
    """Of that person, at this distance from the others."""
    step = np.random.default_rng([person, number]).normal(size=128)
    return somebody(person) + step / np.linalg.norm(step) * distance


def known(people: int, pictures: int = 2) -> Known:
    return {
        f"p{person}/{two}": picture(person, two)
        for person in range(people)
        for two in range(pictures)
    }


def rule_for(people: int, false_names: float = DEFAULT_FALSE_NAMES) -> Rule:
    return Rule.of(Calibration.after(None, people), TAIL, false_names)


def ask(people: Known, *faces: Encoding, rule: Rule | None = None) -> list[Match]:
    portraits = Portraits(KnownPeople(people), NO_MODEL)
    used = rule or rule_for(portraits.people.people)
    return decide(portraits, faces, used, max_candidates=5)


def test_another_picture_of_a_known_person_is_named() -> None:
    [found] = ask(known(20), picture(3, 9))
    assert found.outcome is Outcome.NAMED
    assert found.candidates[0].folder == "p3"
    assert not found.ambiguous


def test_hardly_a_stranger_is_named_and_most_are_nobody() -> None:
    people = known(20)
    outcomes = [ask(people, somebody(number))[0].outcome for number in range(500, 700)]
    assert outcomes.count(Outcome.NAMED) <= 4
    assert outcomes.count(Outcome.UNKNOWN) >= 150


def test_between_the_two_a_person_is_asked() -> None:
    people = known(20)
    face = picture(3, 9)
    alike = float(max(Portraits(KnownPeople(people), NO_MODEL).likenesses([face])[0]))
    [one] = ask(people, face, rule=Rule(alike + 0.01, alike - 0.01, margin=0))
    assert (one.outcome, one.ambiguous) == (Outcome.UNSURE, True)
    assert [candidate.folder for candidate in one.candidates] == ["p3"]
    [one] = ask(people, face, rule=Rule(alike + 0.02, alike + 0.01, margin=0))
    assert one.outcome is Outcome.UNKNOWN


def test_between_two_people_who_are_nearly_as_alike_a_person_is_asked() -> None:
    people = known(20) | {"twin/1": picture(3, 7, 0.4)}
    face = picture(3, 9)
    *_, other, best = sorted(
        Portraits(KnownPeople(people), NO_MODEL).likenesses([face])[0].tolist()
    )
    assert other > 0.6
    for margin, outcome in ((best - other + 0.01, Outcome.UNSURE), (best - other, Outcome.NAMED)):
        for unsure in (other - 0.01, other + 0.01):
            [one] = ask(people, face, rule=Rule(named=best, unsure=unsure, margin=margin))
            assert (one.outcome, one.ambiguous) == (outcome, outcome is Outcome.UNSURE)
            candidates = [candidate.folder for candidate in one.candidates]
            assert candidates == (["p3", "twin"] if unsure < other else ["p3"])
    # Another face of the picture may be whom this one is not named after.
    rule = Rule(0.5, other - 0.01, margin=best - other + 0.01)
    [one, sure] = ask(people, face, face + people["p3/0"] - people["twin/1"], rule=rule)
    assert (one.outcome, sure.outcome) == (Outcome.UNSURE, Outcome.NAMED)
    assert [candidate.folder for candidate in one.candidates] == ["twin"]


def test_nobody_known() -> None:
    [one] = ask({}, somebody(1))
    assert one == Match([], ambiguous=False, outcome=Outcome.UNKNOWN)
    assert ask({}) == []


def test_of_two_faces_that_look_like_one_person_one_is_named_and_the_other_asked_about() -> None:
    near, far = picture(3, 9, 0.1), picture(3, 8, 0.2)
    people = known(20)
    for faces in ((near, far), (far, near)):
        found = ask(people, *faces)
        named = [matched.outcome is Outcome.NAMED for matched in found]
        assert sum(named) == 1
        loser = found[named.index(False)]
        assert all(candidate.folder != "p3" for candidate in loser.candidates)
        assert loser.outcome is not Outcome.NAMED


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(12)), st.integers(0, 5), st.integers(1, 4), st.floats(0.01, 0.6))
def test_neither_order_nor_scale_of_pictures_counts(
    order: list[int], person: int, pictures: int, distance: float
) -> None:
    people = known(6, pictures)
    face = picture(person, 9, distance)
    [one] = ask(people, face)
    names = list(people)
    shuffled = {names[index]: 3 * people[names[index]] for index in order if index < len(names)}
    shuffled = {name: 3 * people[name] for name in [*shuffled, *people]}
    [other] = ask(shuffled, 2 * face)
    assert other.outcome is one.outcome
    assert [c.folder for c in other.candidates] == [c.folder for c in one.candidates]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 9), st.integers(20, 400), st.floats(0.01, 0.6))
def test_a_stranger_who_is_enrolled_changes_no_name_within_a_calibration(
    person: int, stranger: int, distance: float
) -> None:
    people, face = known(10), picture(person, 9, distance)
    before = Portraits(KnownPeople(people), NO_MODEL)
    after = Portraits(KnownPeople(people | {"a stranger/1": somebody(stranger)}), NO_MODEL, before)
    rule = rule_for(11)
    [one] = decide(before, [face], rule, max_candidates=20)
    [other] = decide(after, [face], rule, max_candidates=20)
    likenesses = {c.folder: c.likeness or 0 for c in other.candidates}
    if likenesses.pop("a stranger", 0) > max(likenesses.values(), default=0) - rule.margin:
        return  # then the face is nearly as much like the stranger's as like anybody's
    assert likenesses == pytest.approx({c.folder: c.likeness for c in one.candidates}, abs=1e-4)
    assert (other.outcome is Outcome.NAMED) == (one.outcome is Outcome.NAMED)


@settings(deadline=None)
@given(st.floats(1e-4, 0.5), st.integers(1, 1_000_000))
def test_share_and_likeness_are_two_names_of_one_thing(share: float, people: int) -> None:
    likeness = TAIL.likeness_of(share, people)
    assert TAIL.share_of(likeness, people) == pytest.approx(share, rel=1e-6)
    assert TAIL.likeness_of(share, people + 1) >= likeness
    assert TAIL.share_of(likeness - 100, people) == 1


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=20))
def test_a_calibration_holds_for_the_people_that_there_are(numbers: list[int]) -> None:
    before: Calibration | None = None
    for people in numbers:
        after = Calibration.after(before, people)
        assert people <= after.people
        assert after.people == 10 or after.people < 1.6 * people
        assert after.version == (before.version if before else 0) + (after != before)
        before = after


def test_a_calibration_stays_while_people_come_and_go_by_a_few() -> None:
    first = Calibration.after(None, 120)
    for people in (119, 121, 122, 110, 122, 100):
        assert Calibration.after(first, people) == first
    assert Calibration.after(first, 200).version == 2
    assert Calibration.after(first, 50).version == 2


def test_less_of_strangers_or_more_people_asks_for_a_greater_likeness() -> None:
    assert rule_for(100, 0.001).named > rule_for(100, 0.01).named > rule_for(10, 0.01).named
    assert rule_for(100).named > rule_for(100).unsure
    generous = rule_for(100, 0.5)
    assert generous.named == generous.unsure
