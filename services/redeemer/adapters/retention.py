"""What has been kept for long enough, in the database."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from services.common.clock import Clock, DatabaseClock
from services.common.database import Database
from services.common.person_rows import note_change, take_turns
from services.common.picture_rows import (
    RENEWED_MS,
    SUBMITTED_AT,
    delete_images,
    forget_pictures,
    stored_picture,
)
from services.common.stored_pictures import Removal
from services.common.tables import audit, images, person_images
from services.redeemer.domain import AUDIT_BATCH, LOOKED_AT_ONCE, OldPage, OldPicture


class _OldRows:
    """Rows that are old by the database's clock and by this host's.

    What a clock that runs ahead has removed does not come back, so two have to say it.
    """

    def __init__(
        self, database: Database, clock: DatabaseClock, host_clock: Clock, *, kept_ms: int
    ) -> None:
        self._database = database
        self._clock = clock
        self._host_clock = host_clock
        self._kept_ms = kept_ms

    def _is_old(self, at: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
        return sa.and_(at < self._clock() - self._kept_ms, at < self._host_clock() - self._kept_ms)


class DatabaseOldPictures(_OldRows):
    """The port ``OldPictures`` on a database."""

    def __init__(
        self, database: Database, clock: DatabaseClock, host_clock: Clock, *, kept_ms: int
    ) -> None:
        # No sooner than that after the last submission, whether or not it was noted.
        super().__init__(database, clock, host_clock, kept_ms=kept_ms + RENEWED_MS)

    async def page(self, after: int) -> OldPage:
        now = self._clock()
        # Of a time to come are those that were submitted before the clock was set back.
        is_new = images.c.created_at.between(now - self._kept_ms, now)
        query = (
            sa.select(
                images.c.id,
                images.c.path,
                images.c.content_digest,
                images.c.object_tag,
                self._is_old(SUBMITTED_AT).label("is_old"),
                (now - self._kept_ms - SUBMITTED_AT).label("overdue_ms"),
                is_new.label("is_new"),
            )
            .where(images.c.id > after)
            .order_by(images.c.id)
            .limit(LOOKED_AT_ONCE)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        # Ids grow with time, so behind a page of new images there is nothing old.
        is_last = len(rows) < LOOKED_AT_ONCE or all(row.is_new for row in rows)
        return OldPage(
            [OldPicture(row.id, stored_picture(row), row.overdue_ms) for row in rows if row.is_old],
            None if is_last else rows[-1].id,
        )

    async def erase(self, some: Mapping[OldPicture, Removal | None]) -> Sequence[int]:
        paths = {old.image_id: old.picture.path for old in some}
        lock = (
            sa.select(images.c.id, images.c.path)
            .where(images.c.id.in_(sorted(paths)), self._is_old(SUBMITTED_AT))
            .order_by(images.c.id)
            .with_for_update(skip_locked=True)
        )
        async with self._database.transaction() as connection:
            await take_turns(connection)
            found = (await connection.execute(lock)).all()
            ids = [row.id for row in found if row.path == paths[row.id]]
            if not ids:
                return ids
            cut_out = person_images.c.image_id.in_(ids)
            of_whom = await connection.scalars(sa.select(person_images.c.person_id).where(cut_out))
            people = sorted(set(of_whom))
            await forget_pictures(connection, cut_out)
            removals = [removal for old, removal in some.items() if old.image_id in ids]
            await delete_images(connection, ids, filter(None, removals))
            for person_id in people:
                await note_change(connection, person_id, removed=True)
        return ids


class DatabaseOldAudit(_OldRows):
    """The port ``OldAudit`` on a database."""

    async def remove(self) -> int:
        some = (
            sa.select(audit.c.id)
            .where(self._is_old(audit.c.at))
            .order_by(audit.c.at)
            .limit(AUDIT_BATCH)
        )
        async with self._database.transaction() as connection:
            ids: Sequence[int] = (await connection.scalars(some)).all()
            if ids:
                await connection.execute(sa.delete(audit).where(audit.c.id.in_(ids)))
        return len(ids)
