"""Who the faces of a picture are."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from services.common.faces import CLOSE, Likely
from services.face_recog.domain.calibration import Rule
from services.face_recog.domain.faces import Encoding
from services.face_recog.domain.known_people import KnownPeople, Portraits
from services.face_recog.domain.strangers import Vectors

DEFAULT_CANDIDATES: Final = 5

AMBIGUOUS_MARGIN: Final = 0.05
"""A best match whose runner-up is as near as this is worth a second look, too."""

_DECIDED_AT_ONCE: Final = 16
"""Faces that are compared with all people in one pass: with 100,000, that takes 20 MB."""

_GIVEN: Final = -1
"""In place of a face: a person is in the picture already, by what a hand said."""


class Outcome(StrEnum):
    """What is said of a face."""

    NAMED = "named"
    """It is the first candidate."""

    UNSURE = "unsure"
    """It may be one of the candidates: a person is to say."""

    UNKNOWN = "unknown"
    """It is nobody who is known."""


@dataclass(frozen=True)
class Match:
    """Who a face may be, likeliest first; nobody when it is unknown."""

    candidates: Sequence[Likely]
    ambiguous: bool
    outcome: Outcome


@dataclass(frozen=True)
class Constraints:
    """What hands have said about the faces of one picture.

    ``given`` are people who are other faces in it, ``denied`` those who each face is not.
    """

    given: Collection[str] = ()
    denied: Sequence[Collection[str]] = ()


def decide(
    portraits: Portraits,
    encodings: Sequence[Encoding],
    rule: Rule,
    held: Constraints = Constraints(),
    *,
    alike: Vectors | None = None,
    max_candidates: int = DEFAULT_CANDIDATES,
) -> list[Match]:
    """Say who the faces of one picture are, may be, or that they are nobody known.

    A face is named after nobody but the person who is most alike, by far. A person is in a picture
    once: of two faces that would get one name, the more alike does, and about the other a person is
    asked. ``alike``, of shape (faces, people), are their likenesses if known; it is written to.
    """
    if alike is None:
        alike = portraits.likenesses(encodings)
    for face, names in enumerate(held.denied):
        alike[face, portraits.people.rows(names)] = -np.inf
    likely = [np.flatnonzero(likeness >= rule.unsure) for likeness in alike]
    likely = [
        persons[np.argsort(-likeness[persons], kind="stable")]
        for persons, likeness in zip(likely, alike, strict=True)
    ]
    given = portraits.people.rows(held.given)
    holder: dict[int, int] = {}
    for face, persons in enumerate(likely):
        if not persons.size or persons[0] in given:
            continue
        best = int(persons[0])
        nearly = alike[face] > alike[face][best] - rule.margin
        if alike[face][best] < rule.named or np.count_nonzero(nearly) > 1:
            continue
        if best not in holder or alike[face][best] > alike[holder[best]][best]:
            holder[best] = face
    holder |= dict.fromkeys(given, _GIVEN)
    matches = []
    for face, (encoding, persons) in enumerate(zip(encodings, likely, strict=True)):
        left = [int(person) for person in persons if holder.get(int(person), face) == face]
        named = bool(left) and holder.get(left[0]) == face
        outcome = Outcome.NAMED if named else Outcome.UNSURE if left else Outcome.UNKNOWN
        candidates = [
            portraits.people.candidate(person, encoding)._replace(
                likeness=float(alike[face][person])
            )
            for person in left[:max_candidates]
        ]
        matches.append(Match(candidates, outcome is Outcome.UNSURE, outcome))
    return matches


def decide_all(
    portraits: Portraits, pictures: Sequence[tuple[Sequence[Encoding], Constraints]], rule: Rule
) -> list[list[Match]]:
    """Decide on each of the pictures, several in one pass over the people."""
    decided = []
    for block in _blocks(pictures):
        alike = portraits.likenesses([face for faces, _ in block for face in faces])
        for faces, held in block:
            decided.append(decide(portraits, faces, rule, held, alike=alike[: len(faces)]))
            alike = alike[len(faces) :]
    return decided


def _blocks(
    pictures: Iterable[tuple[Sequence[Encoding], Constraints]],
) -> Iterable[list[tuple[Sequence[Encoding], Constraints]]]:
    block: list[tuple[Sequence[Encoding], Constraints]] = []
    size = 0
    for picture in pictures:
        block.append(picture)
        size += len(picture[0])
        if size >= _DECIDED_AT_ONCE:
            yield block
            block, size = [], 0
    yield block


def match(
    people: KnownPeople, encodings: Sequence[Encoding], *, tolerance: float, max_candidates: int
) -> list[Match]:
    """Say who the faces of one picture may be, by nothing but the nearest picture's distance.

    A person is in a picture once: of two faces that look like the same one, the nearer keeps the
    name and the other gets its next candidate or none. What makes a face ambiguous is measured
    before that, so a face that lost its nearest person to another is ambiguous.
    """
    # Other faces may take one person each, and a runner-up beyond the candidates still counts.
    count = max(max_candidates + len(encodings), 2)
    nearest = [people.nearest(encoding, count) for encoding in encodings]
    holder: dict[str, int] = {}
    named: set[int] = set()
    pairs = [
        (candidate.distance, face, candidate.folder)
        for face, candidates in enumerate(nearest)
        for candidate in candidates
        if candidate.distance <= tolerance
    ]
    for _, face, person in sorted(pairs):
        if face not in named and person not in holder:
            named.add(face)
            holder[person] = face
    return [
        _match_one(
            [
                candidate
                for candidate in candidates
                if candidate.distance <= tolerance and holder.get(candidate.folder, face) == face
            ][:max_candidates],
            candidates,
        )
        for face, candidates in enumerate(nearest)
    ]


def _match_one(candidates: Sequence[Likely], nearest: Sequence[Likely]) -> Match:
    if not candidates:
        return Match((), ambiguous=False, outcome=Outcome.UNKNOWN)
    best = candidates[0]
    ambiguous = best.distance > CLOSE or any(
        other.distance - best.distance <= AMBIGUOUS_MARGIN
        for other in nearest
        if other.folder != best.folder
    )
    return Match(candidates, ambiguous, Outcome.NAMED)
