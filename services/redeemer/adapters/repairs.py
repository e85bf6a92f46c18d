"""The images in the database, as far as they are repaired."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from services.common.backup_rows import backup_report
from services.common.claims import NUDGE_MS, RING_AFTER_MS, Rules
from services.common.clock import DatabaseClock
from services.common.database import Database
from services.common.due_rows import is_due, longest_wait
from services.common.event_rows import note_events
from services.common.events import KEPT_MS, EventKind
from services.common.image_states import FINAL, Status
from services.common.tables import events, images
from services.redeemer.domain import BATCH, EVENTS_BATCH, Census


class DatabaseRepairs:
    """Takes rows so that no other replica takes them too.

    A row is chosen and changed in one transaction, and rows that another replica has chosen are
    skipped. On SQLite transactions take turns anyway. What processors were notified of is
    due again after ``ring_again_ms``.
    """

    def __init__(
        self,
        database: Database,
        clock: DatabaseClock,
        *,
        rules: Rules = Rules(),  # noqa: B008, it is frozen
        ring_again_ms: int = RING_AFTER_MS,
    ) -> None:
        self._database = database
        self._clock = clock
        self._rules = rules
        self._ring_again_ms = ring_again_ms
        self._latest_due_ms = max(rules.latest_due_ms, ring_again_ms + NUDGE_MS)

    async def take_failed(self) -> Sequence[int]:
        return await self._take(Status.FAILED, {"status": Status.PENDING})

    async def take_abandoned(self) -> Sequence[int]:
        return await self._take(
            Status.PROCESSING,
            {"status": Status.PENDING, "claim_token": None},
            images.c.attempt < self._rules.max_attempts,
        )

    async def mark_abandoned_dead(self) -> Sequence[int]:
        last = self._rules.max_attempts
        return await self._take(
            Status.PROCESSING,
            {
                "status": Status.DEAD,
                "claim_token": None,
                "due_at": None,
                "error": f"processing did not finish in time, attempt {last} of {last}",
            },
            images.c.attempt >= last,
        )

    async def take_waiting(self) -> Sequence[int]:
        return await self._take(Status.PENDING, {})

    async def forget_events(self) -> int:
        first = sa.select(events).order_by(events.c.id).limit(EVENTS_BATCH).subquery()
        now = self._clock()
        # Those of a time to come were noted before the clock was set back.
        recent = first.c.created_at.between(now - KEPT_MS, now + KEPT_MS)
        async with self._database.transaction() as connection:
            ids = (await connection.scalars(sa.select(first.c.id).where(~recent))).all()
            if ids:
                await connection.execute(sa.delete(events).where(events.c.id.in_(ids)))
        return len(ids)

    async def census(self) -> Census:
        counting = sa.select(images.c.status, sa.func.count().label("images")).group_by(
            images.c.status
        )
        async with self._database.reading() as connection:
            counts = {row.status: row.images for row in await connection.execute(counting)}
            wait = await connection.scalar(longest_wait(self._clock()))
            backup = await backup_report(connection, self._clock)
        return Census(counts, wait, backup.without_seconds if backup else None)

    async def _take(
        self, status: Status, values: dict[str, Any], *conditions: sa.ColumnElement[bool]
    ) -> Sequence[int]:
        now = self._clock()
        choosing = (
            sa.select(images.c.id)
            .where(
                images.c.status == status,
                is_due(images, now, self._latest_due_ms),
                *conditions,
            )
            .order_by(images.c.due_at)
            .limit(BATCH)
            .with_for_update(skip_locked=True)
        )
        async with self._database.transaction() as connection:
            ids = (await connection.scalars(choosing)).all()
            if ids:
                moved = {"due_at": now + self._ring_again_ms, **values}
                if "status" in values:
                    moved["updated_at"] = now
                await connection.execute(
                    sa.update(images).where(images.c.id.in_(ids)).values(moved)
                )
            if values.get("status") in FINAL:
                await note_events(connection, now, EventKind.IMAGE, ids)
        return ids
