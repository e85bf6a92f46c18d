"""What endpoints of webhooks are told, in the database."""

from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from services.common.clock import database_now
from services.common.tables import webhook_deliveries
from services.common.webhooks import DeliveryStatus
from services.receiver.adapters.rows.on_database import OnDatabase, page_by_id
from services.receiver.domain.cursors import Page
from services.receiver.domain.deliveries import Delivery
from services.receiver.domain.errors import ConflictError, NotFoundError


class DatabaseDeliveries(OnDatabase):
    """What endpoints of webhooks are told."""

    async def page(
        self, *, status: str | None, before: int | None, limit: int
    ) -> Page[Delivery, int]:
        table = webhook_deliveries
        query = sa.select(table).order_by(table.c.id.desc()).limit(limit + 1)
        if status is not None:
            query = query.where(table.c.status == status)
        if before is not None:
            query = query.where(table.c.id < before)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return page_by_id(rows, _delivery, limit)

    async def retry(self, delivery_id: int) -> Delivery:
        """Have one that was given up tried again, as often as a new one; return it.

        Raises ``NotFoundError`` and ``ConflictError``.
        """
        now, table = database_now(), webhook_deliveries
        anew = {"status": DeliveryStatus.PENDING, "attempt": 0, "due_at": now, "updated_at": now}
        its = table.c.id == delivery_id
        async with self._database.transaction() as connection:
            changed = await connection.execute(
                sa.update(table).where(its, table.c.status == DeliveryStatus.FAILED).values(anew)
            )
            row = (await connection.execute(sa.select(table).where(its))).first()
        if row is None:
            raise NotFoundError(f"there is no delivery {delivery_id}")
        if not changed.rowcount:
            raise ConflictError(
                f"delivery {delivery_id} is {row.status}; only failed ones can be tried again"
            )
        return _delivery(row)


def _delivery(row: Any) -> Delivery:
    return Delivery(*(getattr(row, field.name) for field in fields(Delivery)))
