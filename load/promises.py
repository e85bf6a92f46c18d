"""What an installation promises, and how much of a load was answered so."""

from collections.abc import Mapping
from typing import Final, NamedTuple

# What the report calls requests, and a picture's way from its submission to its end.
SUBMISSION: Final = "submission"
RESULT: Final = "result"
PAGE: Final = "page"
LOG_IN: Final = "log-in"


class Promise(NamedTuple):
    """What is promised of the requests of a ``name``: a share of them, within milliseconds."""

    of: str
    name: str
    share: float
    milliseconds: float

    def kept(self, times: Mapping[int, int], failures: int) -> int:
        """Return how many requests kept it, by how many took so many milliseconds.

        Those that failed have a time, too, and kept nothing.
        """
        within = sum(number for took, number in times.items() if took <= self.milliseconds)
        return max(0, within - failures)

    def verdict(self, kept: int, total: int) -> str:
        """Return the line about it."""
        said = f"{kept / total:.2%} of {total}" if total else "nothing was asked"
        return f"{self.of}: {said}, {self.share:.1%} promised"


PROMISES: Final = (
    Promise("submissions answered", SUBMISSION, 0.999, 30_000),
    Promise("pictures processed within 60 s", RESULT, 0.99, 60_000),
    Promise("pages within 300 ms", PAGE, 0.99, 300),
)
