"""How well a face can be recognised, as every service knows it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

FIT: Final = 0.5
"""Faces with a lower score are not worth enrolling."""


class Flaw(StrEnum):
    """What is worst about a face."""

    SMALL = "too small"
    BLURRED = "blurred"
    TURNED = "turned away"
    DARK = "dark"
    OVEREXPOSED = "overexposed"
    PALE = "pale"


@dataclass(frozen=True, slots=True)
class Quality:
    """How well a face can be recognised: numbers from 0 to 1, ``score`` is the worst of all.

    ``flaw`` says what is worst when the score is under 0.5, such as "too small", and is null
    otherwise.
    """

    score: float
    flaw: str | None
    size: float
    sharpness: float
    pose: float
    light: float

    def __post_init__(self) -> None:
        """Check what another process, or the database, says; raise ``ValueError`` if unsound.

        A flaw may be one of a later version.
        """
        numbers = (self.score, self.size, self.sharpness, self.pose, self.light)
        if not all(type(number) in {int, float} and 0 <= number <= 1 for number in numbers):
            raise ValueError(f"quality with a number that is not from 0 to 1: {numbers}")
        if not isinstance(self.flaw, str | None):
            raise ValueError(f"quality with the flaw {self.flaw!r}")  # noqa: TRY004, as the other
