"""Faces, known people and who is nearest to whom."""

import heapq
import math
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from services.common.faces import CLOSE, MIN_SIDE, MOST_FACES, Box, Likely, MeasuredFace
from services.common.images import folder_of
from services.face_recog.strangers import Model, Strangers, Tail, Vectors


@dataclass(frozen=True)
class Embedder:
    """A model from a file, and how it wants the 112 x 112 pixels of a face.

    Its input is (pixel - ``mean``) / ``scale``; its output has ``size`` numbers. Scaled to length
    1, those of two faces of one person are nearer than ``distance``.
    """

    file: Path
    mean: float
    scale: float
    colours: Literal["RGB", "BGR"]
    size: int
    distance: float


EngineChoice = Literal["classic", "centerface"] | Embedder
"""What may be chosen to find and encode faces; an embedder stands behind CenterFace."""

DEFAULT_TOLERANCE: Final = 0.6
"""The distance for which the model was trained: it tells people apart at 0.6."""

DEFAULT_FALSE_NAMES: Final = 0.01
"""The share of strangers who may get a name."""

DEFAULT_CANDIDATES: Final = 5

AMBIGUOUS_MARGIN: Final = 0.05
"""A best match whose runner-up is as near as this is worth a second look, too."""

ASKED_ABOUT: Final = 0.2
"""A person is asked about the faces that are more alike to somebody known than those of all but so
many strangers, in 1; of 400 known people, 95 % were named or asked about then."""

_FEW: Final = 10
"""Fewer people than these are calibrated for as if they were so many."""

_STEP: Final = 1.25
"""Calibrations differ by this factor in the number of people."""

# Squared distances from float32 products are off by less than this; encodings have a length of
# about 1.4, so their rounding errors stay below 1e-5.
_ROUGH: Final = 1e-4

_DECIDED_AT_ONCE: Final = 16
"""Faces that are compared with all people in one pass: with 100,000, that takes 20 MB."""

_GIVEN: Final = -1
"""In place of a face: a person is in the picture already, by what a hand said."""

_SORTED_AT_ONCE: Final = 2000
"""Names that are sorted within a few milliseconds."""

Encoding = NDArray[np.float64]


@dataclass(frozen=True)
class Engine:
    """What makes encodings: those of two engines are never compared.

    ``name`` stands in answers and before what is kept: it names the models, their versions and the
    version of the rules around them, in at most 64 characters. ``size`` is the number of numbers in
    an encoding.
    """

    name: str
    size: int


class Problem(StrEnum):
    """Why a picture or a request cannot be answered; trying again changes nothing."""

    NOT_FOUND = "not_found"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too_large"
    INVALID_REQUEST = "invalid_request"


class RejectedError(Exception):
    """The content of a request is at fault; the message is for people."""

    def __init__(self, problem: Problem, reason: str) -> None:
        super().__init__(reason)
        self.problem = problem


class RecogniserFaultError(Exception):
    """The recogniser failed on a picture that may work later."""


class RecogniserBusyError(Exception):
    """Too many pictures wait already."""


def check_boxes(boxes: Sequence[Box]) -> None:
    """Raise :class:`RejectedError` for boxes that are no faces in any picture."""
    if len(boxes) > MOST_FACES:
        raise RejectedError(
            Problem.INVALID_REQUEST, f"{len(boxes)} boxes are too many: {MOST_FACES} at most"
        )
    for number, box in enumerate(boxes):
        across, down = box.right - box.left, box.bottom - box.top
        if across < MIN_SIDE or down < MIN_SIDE:
            raise RejectedError(
                Problem.INVALID_REQUEST,
                f"box {number}, {box}, is {across} x {down} pixels: a face has at least {MIN_SIDE}"
                " on a side (left, top, right, bottom)",
            )


@dataclass(frozen=True)
class DetectedFace(MeasuredFace):
    """A face with its encoding, shape (size of the engine,)."""

    encoding: Encoding


@dataclass(frozen=True)
class Recognition:
    """What a picture shows: its size in pixels when upright, and its faces.

    They are in the order of the boxes that were asked for, or else largest first.
    """

    width: int
    height: int
    faces: Sequence[DetectedFace]


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


def _sorted_in_turns(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Sort without keeping other threads from the interpreter until all of it is done."""
    turns = range(0, len(rows), _SORTED_AT_ONCE)
    return list(heapq.merge(*(sorted(rows[start : start + _SORTED_AT_ONCE]) for start in turns)))


class People:
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

    def changed(self, encodings: Mapping[str, NDArray[np.floating] | None]) -> "People":
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
        new = sorted((folder_of(name), name) for name, one in encodings.items() if one is not None)
        places = [bisect_left(rows, row) for row in new]
        for place, owned in reversed(list(zip(places, new, strict=True))):
            rows.insert(place, owned)
        if gone:
            matrix = np.delete(matrix, gone, axis=0)
        if new:
            added = np.array([encodings[name] for _, name in new], np.float32)
            matrix = np.insert(matrix, places, added, axis=0) if len(matrix) else added
        people = People({})
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
        """Return the mean of each person's encodings, scaled to length 1; shape (people, size)."""
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
        found = []
        for person in np.flatnonzero(best <= bound):
            start, end = self._starts[person], self._ends[person]
            rows = start + np.flatnonzero(rough[start:end] <= best[person] + _ROUGH)
            distances = np.linalg.norm(self._matrix[rows] - encoding, axis=1)
            nearest = int(np.argmin(distances))
            found.append(
                Likely(
                    self._rows[rows[nearest]][1], self._persons[person], float(distances[nearest])
                )
            )
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
        self, people: People, strangers: Strangers, before: "Portraits | None" = None
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

    def portrait(self, name: str, rule: "Rule") -> "Portrait | None":
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
        self, portrait: "Portrait", encodings: Sequence[Encoding], rule: "Rule"
    ) -> Sequence[bool]:
        """Tell of each face whether it would be asked about, were there nobody else."""
        alike = self.strangers.likenesses(_units(encodings), portrait.mean[None], portrait.standing)
        return [bool(one) for one in alike[:, 0] >= rule.unsure]


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


@dataclass(frozen=True)
class Calibration:
    """What names are held against: it is the same while no more than ``people`` are known.

    ``model`` is what strangers are drawn from; None while too few faces were seen. A new version
    says something else; within one, a face's outcome depends on nobody but itself and the people
    whom it is compared with.
    """

    version: int
    people: int
    model: Model | None = None

    @classmethod
    def after(
        cls, before: "Calibration | None", people: int, model: Model | None = None
    ) -> "Calibration":
        """Return the one before, if it holds for so many people, else the next one.

        The next one it is, too, with a model, which is newer than the one before's.
        """
        if before is None:
            return cls(1, _enough(people), model)
        holds = people <= before.people and (
            before.people == _FEW or before.people / _STEP**2 < people
        )
        if holds and model is None:
            return before
        enough = before.people if holds else _enough(people)
        return cls(before.version + 1, enough, model or before.model)


def _enough(people: int) -> int:
    steps = math.log(max(people, _FEW) / _FEW, _STEP)
    return math.ceil(_FEW * _STEP ** math.ceil(steps - 1e-9))


@dataclass(frozen=True)
class Rule:
    """Likenesses from which a face is named, and from which it is asked about.

    It is asked about, too, when another person is less alike by no more than ``margin``.
    """

    named: float
    unsure: float
    margin: float

    @classmethod
    def of(cls, calibration: Calibration, tail: Tail, false_names: float) -> "Rule":
        """Return the one by which at most the share ``false_names`` of strangers are named.

        Its margin is a decade: a tenth as many strangers are as alike to the first as to the
        second, so that of the two, the face is the first's by odds of ten to one.
        """
        named = tail.likeness_of(false_names, calibration.people)
        unsure = min(named, tail.likeness_of(ASKED_ABOUT, calibration.people))
        return cls(named, unsure, margin=tail.decade)


@dataclass(frozen=True)
class Held:
    """What hands have said about the faces of one picture.

    ``given`` are people who are other faces in it, ``denied`` those who each face is not.
    """

    given: Collection[str] = ()
    denied: Sequence[Collection[str]] = ()


def decide(
    portraits: Portraits,
    encodings: Sequence[Encoding],
    rule: Rule,
    *,
    max_candidates: int = DEFAULT_CANDIDATES,
) -> list[Match]:
    """Say who the faces of one picture are, may be, or that they are nobody known.

    A face is named after nobody but the person who is most alike, by far. A person is in a picture
    once: of two faces that would get one name, the more alike does, and about the other a person is
    asked.
    """
    alike = portraits.likenesses(encodings)
    return _decide(portraits, encodings, alike, rule, Held(), max_candidates=max_candidates)


def decide_all(
    portraits: Portraits, pictures: Sequence[tuple[Sequence[Encoding], Held]], rule: Rule
) -> list[list[Match]]:
    """Decide on each of the pictures, several in one pass over the people."""
    decided = []
    for block in _blocks(pictures):
        alike = portraits.likenesses([face for faces, _ in block for face in faces])
        for faces, held in block:
            decided.append(_decide(portraits, faces, alike[: len(faces)], rule, held))
            alike = alike[len(faces) :]
    return decided


def _blocks(
    pictures: Iterable[tuple[Sequence[Encoding], Held]],
) -> Iterable[list[tuple[Sequence[Encoding], Held]]]:
    block: list[tuple[Sequence[Encoding], Held]] = []
    size = 0
    for picture in pictures:
        block.append(picture)
        size += len(picture[0])
        if size >= _DECIDED_AT_ONCE:
            yield block
            block, size = [], 0
    yield block


def _decide(
    portraits: Portraits,
    encodings: Sequence[Encoding],
    alike: Vectors,
    rule: Rule,
    held: Held,
    *,
    max_candidates: int = DEFAULT_CANDIDATES,
) -> list[Match]:
    """Decide on one picture; ``alike``, of shape (faces, people), is written to."""
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
            portraits.people.candidate(one, encoding)._replace(likeness=float(alike[face][one]))
            for one in left[:max_candidates]
        ]
        matches.append(Match(candidates, outcome is Outcome.UNSURE, outcome))
    return matches


def match(
    people: People, encodings: Sequence[Encoding], *, tolerance: float, max_candidates: int
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
