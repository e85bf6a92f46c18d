from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bench import accuracy
from services.face_recog.domain.faces import Encoding
from services.face_recog.domain.known_people import DEFAULT_TOLERANCE
from services.face_recog.domain.strangers import DLIB

Faces = dict[str, list[Encoding]]


def faces(people: int, pictures: int, spread: float, like: list[Encoding] | None = None) -> Faces:
    """People far from one another, and their pictures that far from each of them."""
    drawing = np.random.default_rng(people + pictures)

    def away(length: float) -> Encoding:
        step: Encoding = drawing.normal(size=128)
        return step / np.linalg.norm(step) * length

    centres = like or [away(1.4) for _ in range(people)]
    return {
        f"{pictures} of {number}": [centre + away(spread) for _ in range(pictures)]
        for number, centre in enumerate(centres)
    }


def ask(everybody: Faces, known: int) -> accuracy._Rules:
    return accuracy._ask(everybody, accuracy._Setting(known, 2), DLIB)


def test_people_far_from_all_others_are_found_and_strangers_are_nobody() -> None:
    answers = ask(faces(20, 3, 0.2) | faces(40, 1, 0.2), 10).nearest
    assert len(answers.known) == accuracy._PROBES
    assert accuracy._shares(answers, DEFAULT_TOLERANCE) == ("100.0%", "0.0%", "0.0%")


def test_a_stranger_who_looks_like_a_known_person_counts_as_named() -> None:
    known = faces(10, 3, 0.2)
    doubles = faces(10, 1, 0.2, like=[pictures[1] for pictures in known.values()])
    answers = ask(known | doubles, 10).nearest
    assert accuracy._shares(answers, DEFAULT_TOLERANCE) == ("100.0%", "0.0%", "100.0%")
    # Where no stranger gets a name any more, these are too far from themselves as well.
    assert accuracy._share(answers.known, accuracy._allowing(answers.tuning), true=True) < 1


def test_a_known_person_who_is_taken_for_another_is_not_found() -> None:
    one, other = faces(2, 3, 0.2).values()
    everybody = {"one": [other[0], *one[1:]], "other": other, **faces(30, 1, 0.2)}
    answers = ask(everybody, 2).nearest
    assert accuracy._shares(answers, DEFAULT_TOLERANCE)[:2] == ("50.0%", "50.0%")


def test_between_two_who_look_alike_nobody_is_named_but_asked_about() -> None:
    known = faces(2, 3, 0.05)
    [one, *_] = known.values()
    twins = known | {"twin": [one[0] + (other - one[0]) * 0.1 for other in one]}
    answers = ask(twins | faces(60, 1, 0.05), 3).rule
    named = {answer.somebody for answer in answers.known if answer.far < 1}
    assert named == {name for name in known if known[name] is not one}
    assert all(answer.asked < 0.01 for answer in answers.known)


def test_the_fewer_people_were_asked_about_the_less_their_share_says() -> None:
    assert accuracy._bounds(0, 100) == "\n0.0-3.7"
    assert accuracy._bounds(0.1, 100) == "\n5.5-17.4"
    assert accuracy._bounds(1, 10) == "\n72.2-100.0"
    answers = accuracy._Answers()
    answers.known = [accuracy._Answer(name, true=True, far=0) for name in "aaaab"]
    answers.strangers = [accuracy._Answer("c")]
    found, others, _ = accuracy._shares(answers, 0.01, bounds=True)
    assert (found, others) == ("100.0%\n34.2-100.0", "0.0%\n0.0-65.8")


def test_no_face_serves_twice() -> None:
    """Neither as enrolled and asked, nor as a stranger to choose a tolerance by and to check it."""
    everybody = faces(20, 3, 0.0) | faces(40, 1, 0.2)
    answers = ask(everybody, 20).rule
    assert len(answers.known) == 20
    assert len(answers.tuning) + len(answers.strangers) == 40
    assert min(len(answers.tuning), len(answers.strangers)) > 10


@pytest.mark.parametrize(
    ("given", "reason"), [("", "LFW=folder with"), ("/nowhere", "LFW=/nowhere is no folder")]
)
def test_without_pictures_it_says_what_to_give(
    given: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LFW", given)
    with pytest.raises(SystemExit, match=reason):
        accuracy.run(Console(), tmp_path, short=False)
