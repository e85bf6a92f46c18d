"""The deliveries in the database."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import DatabaseClock
from services.common.database import Database
from services.common.due_rows import is_due
from services.common.event_rows import is_lost, latest_position, read_events
from services.common.events import PAGE, Event, EventKind, Position
from services.common.image_states import Status
from services.common.person_names import known_name
from services.common.person_rows import BEING_FORGOTTEN, SHOWN_ID, WHOSE
from services.common.tables import faces, images, persons, webhook_deliveries, webhook_positions
from services.common.webhooks import DeliveryStatus, WebhookType
from services.webhooks.domain import BATCH, LEASE_MS, LONGEST_PAUSE_MS, Attempt, Endpoint

log = structlog.get_logger(__name__)

_NAME: Final = "deliveries"
_position: Final = sa.select(webhook_positions.c.position).where(webhook_positions.c.name == _NAME)
_TYPES: Final = {
    Status.PROCESSED: WebhookType.IMAGE_PROCESSED,
    Status.REJECTED: WebhookType.IMAGE_REJECTED,
    Status.DEAD: WebhookType.IMAGE_DEAD,
}


class DatabaseWebhookDeliveries:
    """The port ``WebhookDeliveries`` on a database."""

    def __init__(self, database: Database, clock: DatabaseClock, *, kept_ms: int) -> None:
        self._database = database
        self._clock = clock
        self._kept_ms = kept_ms

    async def make(self, endpoints: Sequence[Endpoint]) -> bool:
        # A look that locks nothing, since mostly there is nothing.
        async with self._database.reading() as connection:
            text = await connection.scalar(_position)
            if text and (position := Position.parse(text)):
                found, after = await read_events(connection, self._clock(), position)
                if not found and after.at - position.at < LEASE_MS:
                    return False
        async with self._database.transaction() as connection:
            text = await connection.scalar(_position.with_for_update())
            if text is None:
                await self._begin(connection)
                return True
            position = Position.parse(text)
            if position is None or await is_lost(connection, self._clock(), position):
                log.error("what changed more than an hour ago is told to nobody")
                position = await latest_position(connection, self._clock())
            found, position = await read_events(connection, self._clock(), position)
            await self._add(connection, found, endpoints)
            await connection.execute(sa.update(webhook_positions).values(position=str(position)))
        return len(found) == PAGE

    async def _begin(self, connection: AsyncConnection) -> None:
        position = str(await latest_position(connection, self._clock()))
        # Of two that begin, the second goes on from where the first began.
        await connection.execute(
            sa.insert(webhook_positions)
            .values(name=_NAME, position=position)
            .prefix_with("OR IGNORE", dialect="sqlite")
            .prefix_with("IGNORE", dialect="mysql")
        )

    async def _add(
        self, connection: AsyncConnection, found: Iterable[Event], endpoints: Sequence[Endpoint]
    ) -> None:
        now = self._clock()
        changed = dict.fromkeys((event.kind, event.subject_id) for event in found)
        ids = [subject for kind, subject in changed if kind == EventKind.IMAGE]
        statuses: dict[int, str] = {}
        if ids:
            query = sa.select(images.c.id, images.c.status).where(images.c.id.in_(ids))
            statuses = {row.id: row.status for row in await connection.execute(query)}
        rows: list[dict[str, Any]] = []
        for kind, subject in changed:
            match kind:
                case EventKind.IMAGE:
                    what = _TYPES.get(statuses.get(subject))  # type: ignore[call-overload]
                case EventKind.PERSON:
                    what = WebhookType.PERSON_CHANGED
                case _:
                    what = None
            rows += [
                {
                    "message_id": f"msg_{secrets.token_hex(12)}",
                    "endpoint": endpoint.url,
                    "type": what,
                    "subject_id": subject,
                }
                for endpoint in endpoints
                if what in endpoint.types
            ]
        if rows:
            values = {"created_at": now, "updated_at": now, "due_at": now}
            start = {"status": DeliveryStatus.PENDING, "attempt": 0}
            await connection.execute(
                sa.insert(webhook_deliveries).values({**values, **start}), rows
            )

    async def take(self, url: str, limit: int) -> Sequence[Attempt]:
        table, now, token = webhook_deliveries, self._clock(), secrets.token_hex(16)
        attempt = table.c.attempt + 1
        choosing = (
            sa.select(
                *table.c["id", "message_id", "type", "subject_id", "created_at"],
                attempt.label("number"),
                sa.literal(token).label("token"),
            )
            .where(
                table.c.endpoint == url,
                table.c.status == DeliveryStatus.PENDING,
                is_due(table, now, LONGEST_PAUSE_MS),
            )
            .order_by(table.c.due_at)
            .limit(limit)
        )
        async with self._database.reading() as connection:
            if (await connection.execute(choosing)).first() is None:
                return []
        async with self._database.transaction() as connection:
            rows = (await connection.execute(choosing.with_for_update(skip_locked=True))).all()
            await connection.execute(
                sa.update(table)
                .where(table.c.id.in_([row.id for row in rows]))
                .values(claim_token=token, attempt=attempt, due_at=now + LEASE_MS)
            )
        return [Attempt(**row._asdict()) for row in rows]

    async def data(self, attempt: Attempt) -> Mapping[str, object]:
        subject = attempt.subject_id
        async with self._database.reading() as connection:
            if attempt.type == WebhookType.PERSON_CHANGED:
                name = await connection.scalar(
                    sa.select(persons.c.name).where(persons.c.id == subject, ~BEING_FORGOTTEN)
                )
                return {"id": subject, "name": known_name(name)}
            query = (
                sa.select(
                    *images.c["path", "name", "status", "error"],
                    faces.c.face_index,
                    WHOSE.label("whose"),
                    SHOWN_ID.label("whose_id"),
                )
                .select_from(
                    images.outerjoin(
                        faces, sa.and_(faces.c.image_id == images.c.id, ~faces.c.struck_out)
                    ).outerjoin(persons, persons.c.id == faces.c.person_id)
                )
                .where(images.c.id == subject)
                .order_by(faces.c.face_index)
            )
            rows = (await connection.execute(query)).all()
        if not rows:
            return {"id": subject, "status": None}
        first = rows[0]
        return {
            "id": subject,
            "path": first.path,
            "name": first.name,
            "status": first.status,
            "error": first.error,
            "faces": [
                {"index": row.face_index, **_person(row)}
                for row in rows
                if row.face_index is not None
            ],
        }

    async def finish(self, attempt: Attempt, error: str | None, pause: int | None) -> None:
        now, table = self._clock(), webhook_deliveries
        if error is None:
            status, due_at = DeliveryStatus.DELIVERED, None
        elif pause is None:
            status, due_at = DeliveryStatus.FAILED, None
        else:
            status, due_at = DeliveryStatus.PENDING, now + pause
        async with self._database.transaction() as connection:
            await connection.execute(
                sa.update(table)
                .where(table.c.id == attempt.id, table.c.claim_token == attempt.token)
                .values(status=status, due_at=due_at, error=error, claim_token=None, updated_at=now)
            )

    async def remove_old(self) -> int:
        table = webhook_deliveries
        first = sa.select(table.c.id, table.c.created_at).order_by(table.c.id).limit(BATCH)
        oldest = first.subquery()
        old = sa.select(oldest.c.id).where(oldest.c.created_at < self._clock() - self._kept_ms)
        async with self._database.reading() as connection:
            ids = (await connection.scalars(old)).all()
        if ids:
            async with self._database.transaction() as connection:
                await connection.execute(sa.delete(table).where(table.c.id.in_(ids)))
        return len(ids)


def _person(row: Any) -> Mapping[str, object]:
    """Return whose face it is, by name and, where there is a row of the person, by id."""
    name = known_name(row.whose)
    return {"person": name, "person_id": None if name is None else row.whose_id}
