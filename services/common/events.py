"""Noting what has changed, in the transaction of the change, and following along."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.tables import events

KEPT_MS: Final = 3_600_000
"""How long a row is there at least; the redeemer removes it after that."""

PAGE: Final = 1000
"""Events that are read at once."""

_MARGIN_MS: Final = 60_000
"""More than any transaction takes from its first event to its end, and a page to be read."""

_LOOK_BACK: Final = 100_000
"""Among so many ids one may be missing whose transaction had not ended when somebody began."""

_MOST_MISSING: Final = 100
"""Ranges of missing ids that are kept; the oldest were rolled back, most likely."""


class EventKind(StrEnum):
    """What has changed."""

    IMAGE = "image"
    """It is final or given back, has other names, or is gone."""

    ENCODED = "encoded"
    """Faces of an image have new encodings: for those who compare them, nothing that is shown."""

    PERSON = "person"
    """Their name or known pictures are others, or they are gone."""


async def note_events(
    connection: AsyncConnection,
    now: sa.ColumnElement[int],
    kind: EventKind,
    subject_ids: Iterable[int],
) -> None:
    """Note that these images or people have changed; ``now`` is the database's time."""
    rows: list[dict[str, Any]] = [{"kind": kind, "subject_id": one} for one in subject_ids]
    if len(rows) > 1:
        # As a number: where a row holds an expression, the driver sends each on its own.
        at = await connection.scalar(sa.select(now))
        await connection.execute(sa.insert(events), [{**one, "created_at": at} for one in rows])
    elif rows:
        await connection.execute(sa.insert(events).values(**rows[0], created_at=now))


_RANGE: Final = r"\d{1,19}-\d{1,19}"
_POSITION: Final = re.compile(
    rf"(\d{{1,19}})\.(\d{{1,19}})(?:\.({_RANGE}(?:,{_RANGE}){{0,{_MOST_MISSING - 1}}}))?",
    re.ASCII,
)
_MOST: Final = 2**63 - 1


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
            return Position(event_id, self.at, (self.missing + gap)[-_MOST_MISSING:])
        left: list[tuple[int, int]] = []
        for first, last in self.missing:
            if first <= event_id <= last:
                parts = ((first, event_id - 1), (event_id + 1, last))
                left += [one for one in parts if one[0] <= one[1]]
            else:
                left.append((first, last))
        return replace(self, missing=tuple(left[-_MOST_MISSING:]))

    def __str__(self) -> str:
        ranges = ",".join(f"{first}-{last}" for first, last in self.missing)
        return f"{self.last}.{self.at}" + (f".{ranges}" if ranges else "")

    @classmethod
    def parse(cls, text: str) -> "Position | None":
        """Return the position that a text says; None when it says none."""
        if not (found := _POSITION.fullmatch(text)):
            return None
        ranges = [tuple(map(int, one.split("-"))) for one in (found[3] or "").split(",") if one]
        position = cls(int(found[1]), int(found[2]), tuple((one[0], one[1]) for one in ranges))
        numbers = (position.last, position.at, *(number for one in ranges for number in one))
        return position if max(numbers) <= _MOST else None


class Event(NamedTuple):
    """A change, and the position of whoever has read it; ``kind`` is an :class:`EventKind`.

    A newer version may write others.
    """

    id: int
    kind: str
    subject_id: int
    position: Position


async def latest_position(connection: AsyncConnection, now: sa.ColumnElement[int]) -> Position:
    """Return the position before whatever is not committed yet."""
    at = await connection.scalar(sa.select(now))
    last = await connection.scalar(sa.select(sa.func.max(events.c.id))) or 0
    below = max(0, last - _LOOK_BACK)
    before = sa.func.lag(events.c.id).over(order_by=events.c.id)
    ids = (
        sa.select(events.c.id, sa.func.coalesce(before, below).label("before"))
        .where(events.c.id > below, events.c.id <= last)
        .subquery()
    )
    gaps = await connection.execute(
        sa.select(ids.c.before + 1, ids.c.id - 1)
        .where(ids.c.id > ids.c.before + 1)
        .order_by(ids.c.id.desc())
        .limit(_MOST_MISSING)
    )
    return Position(last, at or 0, tuple((first, end) for first, end in reversed(gaps.all())))


async def is_lost(
    connection: AsyncConnection, now: sa.ColumnElement[int], position: Position
) -> bool:
    """Tell whether events after the position may be removed already, or it is of other rows."""
    row = (await connection.execute(sa.select(now.label("now"), sa.func.max(events.c.id)))).one()
    return row[0] - position.at > KEPT_MS - _MARGIN_MS or position.last > (row[1] or _MOST)


async def read_events(
    connection: AsyncConnection, now: sa.ColumnElement[int], position: Position
) -> tuple[list[Event], Position]:
    """Return up to ``PAGE`` events after the position, and the new position; fewer are all.

    Each event comes once, whatever order their transactions end in.
    """
    at = await connection.scalar(sa.select(now))
    late = [events.c.id.between(first, last) for first, last in position.missing]
    rows = await connection.execute(
        sa.select(events.c.id, events.c.kind, events.c.subject_id)
        .where(sa.or_(events.c.id > position.last, *late))
        .order_by(events.c.id)
        .limit(PAGE)
    )
    found: list[Event] = []
    for row in rows:
        position = position.past(row.id)
        found.append(Event(row.id, row.kind, row.subject_id, position))
    if len(found) == PAGE:
        return found, position
    if position.missing:
        # What is missing below a row that is about to be removed would be removed as well.
        oldest = sa.select(events.c.id, events.c.created_at).order_by(events.c.id).limit(1)
        lowest = (await connection.execute(oldest)).first()
        if lowest and lowest.created_at <= (at or 0) - KEPT_MS + _MARGIN_MS:
            kept = tuple(one for one in position.missing if one[1] > lowest.id)
            position = replace(position, missing=kept)
    return found, replace(position, at=at or 0)
