"""Noting what has changed, in the transaction of the change, for whoever follows along."""

from collections.abc import Iterable
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.tables import events


class EventKind(StrEnum):
    """What has changed."""

    IMAGE = "image"
    """It has become final, was given back to be recognised, has other names, or is gone."""

    PERSON = "person"
    """Their name or known pictures are others, or they are gone."""


async def note_events(
    connection: AsyncConnection,
    now: sa.ColumnElement[int],
    kind: EventKind,
    subject_ids: Iterable[int],
) -> None:
    """Note that these images or people have changed; ``now`` is the database's time."""
    rows = [{"kind": kind, "subject_id": one} for one in subject_ids]
    if rows:
        await connection.execute(sa.insert(events).values(created_at=now), rows)
