"""How alike strangers are, so that a likeness can be held against theirs."""

import math
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Tail:
    """How often a stranger reaches a likeness: the product of two faces of length 1.

    With one known person, a share of ``10 ** ((base - likeness) / decade)`` of strangers do: each
    ``decade`` more is reached by a tenth of them.
    """

    base: float
    decade: float

    def likeness_of(self, share: float, people: int) -> float:
        """Return the likeness that a share of strangers reach with the nearest of so many people.

        That is, to be reached with each of them by less: ``1 - (1 - share) ** (1 / people)``.
        """
        each = -math.expm1(math.log1p(-share) / max(1, people))
        return self.base - self.decade * math.log10(each)

    def share_of(self, likeness: float, people: int) -> float:
        """Return the share of strangers who reach a likeness with the nearest of so many people."""
        each = 10 ** min(0.0, (self.base - likeness) / self.decade)
        return 1.0 if each == 1 else -math.expm1(max(1, people) * math.log1p(-each))


DLIB: Final = Tail(0.875, 0.0166)
"""Of dlib's encodings, whoever finds the faces: from the 44,253 pairs of 298 strangers in Labeled
Faces in the Wild, by ``scripts/bench/accuracy.py``; the line goes through those from 1 in 1,000."""


def tail_within(distance: float) -> Tail:
    """Return what to expect of a model that tells people apart at this distance, of length 1.

    One in 1,000 pairs of strangers is taken to be nearer, and one in 10,000 to be more alike by a
    quarter of that. Likenesses that were normal around 0 would be so by a fifth; those of the model
    that tests bring are by 0.23, and one of its 5,000 pairs is nearer.
    """
    likeness = 1 - distance**2 / 2
    return Tail(likeness / 4, likeness / 4)
