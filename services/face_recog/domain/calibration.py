"""What likenesses are held against before a face is named."""

import math
from dataclasses import dataclass
from typing import Final

from services.face_recog.domain.strangers import Model, Tail

DEFAULT_FALSE_NAMES: Final = 0.01
"""The share of strangers who may get a name."""

ASKED_ABOUT: Final = 0.2
"""A person is asked about the faces that are more alike to somebody known than those of all but so
many strangers, in 1; of 400 known people, 95 % were named or asked about then."""

_FEW: Final = 10
"""Fewer people than these are calibrated for as if they were so many."""

_STEP: Final = 1.25
"""Calibrations differ by this factor in the number of people."""


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
