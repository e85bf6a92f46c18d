"""Known people, each described by all their pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.face_recog.domain.calibration import Rule
from services.face_recog.domain.faces import Encoding
from services.face_recog.domain.known_people import KnownPeople
from services.face_recog.domain.strangers import Strangers, Vectors


class Portraits:
    """Known people, each described by all their pictures, and how they stand among strangers.

    ``before`` are older ones: whoever has not changed since is not measured again.
    """

    def __init__(
        self, people: KnownPeople, strangers: Strangers, before: "Portraits | None" = None
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

    def portrait(self, name: str, rule: Rule) -> "Portrait | None":
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
        self, portrait: "Portrait", encodings: Sequence[Encoding], rule: Rule
    ) -> Sequence[bool]:
        """Tell of each face whether it would be asked about, were there nobody else."""
        alike = self.strangers.likenesses(_units(encodings), portrait.mean[None], portrait.standing)
        return [bool(likeness) for likeness in alike[:, 0] >= rule.unsure]


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
