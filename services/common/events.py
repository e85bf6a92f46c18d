"""What has changed, and how far somebody has read of it."""

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple

KEPT_MS: Final = 3_600_000
"""How long a row is there at least; the redeemer removes it after that."""

PAGE: Final = 1000
"""Events that are read at once."""

MOST_MISSING: Final = 100
"""Ranges of missing ids that are kept; the oldest were rolled back, most likely."""


class EventKind(StrEnum):
    """What has changed."""

    IMAGE = "image"
    """It is final or given back, has other names, or is gone."""

    ENCODED = "encoded"
    """Faces of an image have new encodings: for those who compare them, nothing that is shown."""

    PERSON = "person"
    """Their name or known pictures are others, or they are gone."""


_RANGE: Final = r"\d{1,19}-\d{1,19}"
_POSITION: Final = re.compile(
    rf"(\d{{1,19}})\.(\d{{1,19}})(?:\.({_RANGE}(?:,{_RANGE}){{0,{MOST_MISSING - 1}}}))?",
    re.ASCII,
)
MOST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Position:
    """How far somebody has read: every event up to ``last`` but the ``missing`` ones.

    A missing id is one of a transaction that has not ended yet, or was rolled back; they are kept
    as ranges, first and last. ``at`` is the database's time, in ms, when nothing else was left to
    read.
    """

    last: int
    at: int
    missing: tuple[tuple[int, int], ...] = ()

    def past(self, event_id: int) -> "Position":
        """Return the position after this event."""
        if event_id > self.last:
            gap = ((self.last + 1, event_id - 1),) if event_id > self.last + 1 else ()
            return Position(event_id, self.at, (self.missing + gap)[-MOST_MISSING:])
        left: list[tuple[int, int]] = []
        for first, last in self.missing:
            if first <= event_id <= last:
                parts = ((first, event_id - 1), (event_id + 1, last))
                left += [part for part in parts if part[0] <= part[1]]
            else:
                left.append((first, last))
        return replace(self, missing=tuple(left[-MOST_MISSING:]))

    def __str__(self) -> str:
        ranges = ",".join(f"{first}-{last}" for first, last in self.missing)
        return f"{self.last}.{self.at}" + (f".{ranges}" if ranges else "")

    @classmethod
    def parse(cls, text: str) -> "Position | None":
        """Return the position that a text says; None when it says none."""
        if not (found := _POSITION.fullmatch(text)):
            return None
        ranges = [tuple(map(int, part.split("-"))) for part in (found[3] or "").split(",") if part]
        position = cls(int(found[1]), int(found[2]), tuple((ends[0], ends[1]) for ends in ranges))
        numbers = (position.last, position.at, *(number for ends in ranges for number in ends))
        return position if max(numbers) <= MOST else None


class Event(NamedTuple):
    """A change, and the position of whoever has read it; ``kind`` is an :class:`EventKind`.

    A newer version may write others.
    """

    id: int
    kind: str
    subject_id: int
    position: Position
