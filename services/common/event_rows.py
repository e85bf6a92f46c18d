"""Noting what has changed, in the transaction of the change, and reading it."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.events import KEPT_MS, MOST, MOST_MISSING, PAGE, Event, EventKind, Position
from services.common.tables import events

_MARGIN_MS: Final = 60_000
"""More than any transaction takes from its first event to its end, and a page to be read."""

_LOOK_BACK: Final = 100_000
"""Among so many ids one may be missing whose transaction had not ended when somebody began."""


async def note_events(
    connection: AsyncConnection,
    now: sa.ColumnElement[int],
    kind: EventKind,
    subject_ids: Iterable[int],
) -> None:
    """Note that these images or people have changed; ``now`` is the database's time."""
    rows: list[dict[str, Any]] = [
        {"kind": kind, "subject_id": subject_id} for subject_id in subject_ids
    ]
    if len(rows) > 1:
        # As a number: where a row holds an expression, the driver sends each on its own.
        at = await connection.scalar(sa.select(now))
        await connection.execute(sa.insert(events), [{**row, "created_at": at} for row in rows])
    elif rows:
        await connection.execute(sa.insert(events).values(**rows[0], created_at=now))


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
        .limit(MOST_MISSING)
    )
    return Position(last, at or 0, tuple((first, end) for first, end in reversed(gaps.all())))


async def is_lost(
    connection: AsyncConnection, now: sa.ColumnElement[int], position: Position
) -> bool:
    """Tell whether events after the position may be removed already, or it is of other rows."""
    row = (await connection.execute(sa.select(now.label("now"), sa.func.max(events.c.id)))).one()
    return row[0] - position.at > KEPT_MS - _MARGIN_MS or position.last > (row[1] or MOST)


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
            kept = tuple(missing for missing in position.missing if missing[1] > lowest.id)
            position = replace(position, missing=kept)
    return found, replace(position, at=at or 0)
