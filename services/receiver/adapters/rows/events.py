"""What has changed, in the database."""

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import database_now
from services.common.event_rows import is_lost, latest_position, read_events
from services.common.events import PAGE, Event, EventKind, Position
from services.common.person_names import known_name
from services.common.person_rows import BEING_FORGOTTEN
from services.common.tables import images, persons
from services.receiver.adapters.rows.on_database import OnDatabase
from services.receiver.domain.changes import Change, Changes


class DatabaseEvents(OnDatabase):
    """The port ``Events`` on a database."""

    async def latest(self) -> Position:
        async with self._database.reading() as connection:
            return await latest_position(connection, database_now())

    async def lost(self, position: Position) -> bool:
        async with self._database.reading() as connection:
            return await is_lost(connection, database_now(), position)

    async def after(self, position: Position) -> Changes:
        async with self._database.reading() as connection:
            found, position = await read_events(connection, database_now(), position)
            statuses = await _find(connection, images.c.id, images.c.status, found, EventKind.IMAGE)
            name = sa.case((BEING_FORGOTTEN, None), else_=persons.c.name)
            names = await _find(connection, persons.c.id, name, found, EventKind.PERSON)
        changes = [
            Change(
                event.position,
                event.kind,
                event.subject_id,
                status=statuses.get(event.subject_id),
                name=known_name(names.get(event.subject_id)),
            )
            for event in found
            if event.kind != EventKind.ENCODED
        ]
        return Changes(changes, position, more=len(found) == PAGE)


async def _find(
    connection: AsyncConnection,
    key: sa.Column[int],
    value: sa.ColumnElement[str],
    found: Iterable[Event],
    kind: EventKind,
) -> dict[int, str]:
    """Return the values of the rows with these events' subjects, by their ids."""
    ids = {event.subject_id for event in found if event.kind == kind}
    if not ids:
        return {}
    rows = await connection.execute(sa.select(key, value).where(key.in_(ids)))
    return {row[0]: row[1] for row in rows}
