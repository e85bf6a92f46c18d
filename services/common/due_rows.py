"""Which rows are due, by the database's clock, and how long the oldest has waited."""

from typing import Final

import sqlalchemy as sa

from services.common.claims import LATEST_DUE_MS
from services.common.image_states import Status
from services.common.tables import images

_OLDEST_OF: Final = 1000
"""The longest wait is looked for among so many pending images with the lowest ids.

Ids grow with time, except for images that went back to pending; all of them would be too many.
"""


def is_due(
    table: sa.Table, now: sa.ColumnElement[int], latest_ms: int = LATEST_DUE_MS
) -> sa.ColumnElement[bool]:
    """Return the condition that the due time of a table's row has come.

    One that is farther away than any is set was set before the clock was set back: nobody is to
    wait for that.
    """
    return sa.or_(table.c.due_at <= now, table.c.due_at > now + latest_ms)


def longest_wait(now: sa.ColumnElement[int]) -> sa.Select[int | None]:
    """Return the query for how long the oldest pending image has waited, in ms; NULL: none waits.

    Not since it was submitted: an image may go back to pending after a week. Rings leave that time
    alone. After a clock was set back it is 0 until that has caught up.
    """
    first = (
        sa.select(images.c.updated_at)
        .where(images.c.status == Status.PENDING)
        .order_by(images.c.id)
        .limit(_OLDEST_OF)
        .subquery()
    )
    wait = now - sa.func.min(first.c.updated_at)
    return sa.select(sa.case((wait < 0, 0), else_=wait))
