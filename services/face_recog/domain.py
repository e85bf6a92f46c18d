"""Faces, known people and who is nearest to whom."""

import bisect
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from services.common.quality import Quality


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

DEFAULT_CANDIDATES: Final = 5

AMBIGUOUS_DISTANCE: Final = 0.5
"""A best match beyond it is worth a second look."""

AMBIGUOUS_MARGIN: Final = 0.05
"""So is one whose runner-up is as near as this."""

# Squared distances from float32 products are off by less than this; encodings have a length of
# about 1.4, so their rounding errors stay below 1e-5.
_ROUGH: Final = 1e-4

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


@dataclass(frozen=True)
class Box:
    """Pixels of the upright picture, origin top left; right and bottom may equal its size."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class DetectedFace:
    """A face with its encoding, shape (size of the engine,)."""

    box: Box
    score: float
    encoding: Encoding
    quality: Quality


@dataclass(frozen=True)
class Recognition:
    """What a picture shows: its size in pixels when upright, and its faces, largest first."""

    width: int
    height: int
    faces: Sequence[DetectedFace]


@dataclass(frozen=True)
class Candidate:
    """A person that a face may be, with the nearest of the person's pictures."""

    image_name: str
    person: str
    distance: float


@dataclass(frozen=True)
class Match:
    """Who a face may be, nearest first."""

    candidates: Sequence[Candidate]
    ambiguous: bool


def _person(name: str) -> str:
    return unicodedata.normalize("NFC", name.partition("/")[0])


class People:
    """An immutable snapshot of the known people, by one engine.

    ``encodings`` maps ``folder/picture`` to a face's encoding; the folder's name is the person's,
    in whatever form of Unicode the file system gave it.
    """

    def __init__(self, encodings: Mapping[str, Encoding]) -> None:
        # Sorted by person, so that one person's rows are neighbours.
        owned = sorted((_person(name), name) for name in encodings)
        owners = [owner for owner, _ in owned]
        self._names = [name for _, name in owned]
        firsts = [row for row, owner in enumerate(owners) if row == 0 or owners[row - 1] != owner]
        self._persons = [owners[row] for row in firsts]
        self._starts = np.array(firsts, dtype=np.intp)
        self._ends = np.array([*firsts[1:], len(owners)][: len(firsts)], dtype=np.intp)
        size = len(next(iter(encodings.values()), ()))
        self._matrix = np.empty((len(owners), size), dtype=np.float32)
        for row, name in enumerate(self._names):
            self._matrix[row] = encodings[name]
        self._norms = np.einsum("ij,ij->i", self._matrix, self._matrix)

    @property
    def people(self) -> int:
        """How many people are known."""
        return len(self._persons)

    @property
    def pictures(self) -> int:
        """How many pictures of them there are."""
        return len(self._names)

    def nearest(self, encoding: Encoding, count: int) -> list[Candidate]:
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
                Candidate(
                    self._names[rows[nearest]], self._persons[person], float(distances[nearest])
                )
            )
        return sorted(found, key=lambda candidate: (candidate.distance, candidate.person))[:count]

    def is_like(self, name: str, encoding: Encoding) -> bool | None:
        """Tell whether a person has a picture so near; None for somebody without any."""
        person = bisect.bisect_left(self._persons, name)
        if self._persons[person : person + 1] != [name]:
            return None
        rows = self._matrix[self._starts[person] : self._ends[person]]
        return bool(np.linalg.norm(rows - encoding, axis=1).min() <= DEFAULT_TOLERANCE)


def match(
    people: People, encodings: Sequence[Encoding], *, tolerance: float, max_candidates: int
) -> list[Match]:
    """Say who the faces of one picture may be.

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
        (candidate.distance, face, candidate.person)
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
                if candidate.distance <= tolerance and holder.get(candidate.person, face) == face
            ][:max_candidates],
            candidates,
        )
        for face, candidates in enumerate(nearest)
    ]


def _match_one(candidates: Sequence[Candidate], nearest: Sequence[Candidate]) -> Match:
    if not candidates:
        return Match((), ambiguous=False)
    best = candidates[0]
    ambiguous = best.distance > AMBIGUOUS_DISTANCE or any(
        other.distance - best.distance <= AMBIGUOUS_MARGIN
        for other in nearest
        if other.person != best.person
    )
    return Match(candidates, ambiguous)
